"""Keys and values of every layer in memory that is allocated once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

BLOCK = 64  # visible slots are a multiple of it: sums over them have one order


class CacheSizes(Protocol):
    """What a cache asks of a configuration."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


class StaticCache:
    """``entries``: [layers, 2, B, kv_heads, slots, head_dim], keys and values.

    A row's slots are written at the positions its tokens have; nothing is ever erased.  What a
    rejected draft left behind is hidden by the mask until it is written over.

    Parameters
    ----------
    layers, batch, kv_heads, slots, head_dim : int
        ``slots`` is rounded up to a multiple of 64.
    dtype : torch.dtype
    device : torch.device or str
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ):
        shape = (layers, 2, batch, kv_heads, visible(slots), head_dim)
        self._over(torch.zeros(shape, dtype=dtype, device=device))  # hidden ones must be finite

    def _over(self, entries: Tensor) -> None:
        self.entries = entries
        self.kinds = [layer.unbind() for layer in entries]  # keys and values of each layer
        self.where = [
            torch.arange(size, device=entries.device).view([-1 if i == d else 1 for i in range(4)])
            for d, size in enumerate(entries.shape[1:4])
        ]

    @classmethod
    def of(cls, config: CacheSizes, batch: int, slots: int, like: Tensor) -> StaticCache:
        """For layers of ``config``, with the dtype and on the device of ``like``."""
        return cls(
            config.num_layers, batch, config.num_kv_heads, slots, config.head_dim, like.dtype,
            like.device,
        )  # fmt: skip

    def row(self, index: int) -> StaticCache:
        """One row as a cache of its own, in the memory of this one; not for :meth:`hold`."""
        cache = object.__new__(StaticCache)
        cache._over(self.entries[:, :, index : index + 1])
        return cache

    @property
    def slots(self) -> int:
        return self.entries.shape[4]

    def holds(self, batch: int, length: int) -> bool:
        """Whether it is for so many rows and has room for so many tokens of each."""
        return self.entries.shape[2] == batch and length <= self.slots

    def hold(self, length: int) -> None:
        """Make room for ``length`` tokens of every row, twice the slots at least if there is none;
        what is held stays."""
        if length <= self.slots:
            return
        more = max(2 * self.slots, visible(length)) - self.slots
        self._over(torch.nn.functional.pad(self.entries, (0, 0, 0, more)))

    def store(self, layer: int, slots: Tensor, entries: Tensor) -> None:
        """``slots`` [B, n]; ``entries`` [B, 2 kv_heads, n, head_dim], the keys first."""
        kinds = entries.unflatten(1, (2, -1)).transpose(0, 1)  # [2, B, kv_heads, n, head_dim]
        self.entries[layer].index_put_((*self.where, slots[None, :, None]), kinds)

    def load(self, layer: int, slots: int) -> tuple[Tensor, Tensor]:
        """Views of the first ``slots`` slots: keys and values, [B, kv_heads, slots, head_dim]."""
        keys, values = self.kinds[layer]
        return keys[:, :, :slots], values[:, :, :slots]


def visible(length: int) -> int:
    """Slots to look at so that ``length`` are among them."""
    return (length + BLOCK - 1) // BLOCK * BLOCK
