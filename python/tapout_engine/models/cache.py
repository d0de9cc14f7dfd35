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
    """``keys`` and ``values``: [layers, B, kv_heads, slots, head_dim] each.

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
        shape = (layers, batch, kv_heads, visible(slots), head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # hidden ones must be finite
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.rows = torch.arange(batch, device=device)[:, None, None]
        self.heads = torch.arange(kv_heads, device=device)[None, :, None]

    @classmethod
    def of(cls, config: CacheSizes, batch: int, slots: int, like: Tensor) -> StaticCache:
        """For layers of ``config``, with the dtype and on the device of ``like``."""
        return cls(
            config.num_layers, batch, config.num_kv_heads, slots, config.head_dim, like.dtype,
            like.device,
        )  # fmt: skip

    @property
    def slots(self) -> int:
        return self.keys.shape[3]

    def hold(self, length: int) -> None:
        """Make room for ``length`` tokens of every row, twice the slots at least if there is none;
        what is held stays."""
        if length <= self.slots:
            return
        more = max(2 * self.slots, visible(length)) - self.slots
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, more))
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, more))

    def store(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """``slots`` [B, n]; ``keys`` and ``values`` [B, kv_heads, n, head_dim]."""
        where = (self.rows, self.heads, slots[:, None])
        self.keys[layer].index_put_(where, keys)
        self.values[layer].index_put_(where, values)

    def load(self, layer: int, slots: int) -> tuple[Tensor, Tensor]:
        """Views of the first ``slots`` slots."""
        return self.keys[layer, :, :, :slots], self.values[layer, :, :, :slots]


def visible(length: int) -> int:
    """Slots to look at so that ``length`` are among them."""
    return (length + BLOCK - 1) // BLOCK * BLOCK
