"""New tokens of trees: where they stand, and whom they see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import tapout_kernels as tk


@dataclass(frozen=True)
class Branches:
    """``n`` new tokens of each tree, the last of the M that are in the cache with them.

    Parameters
    ----------
    position_ids : Tensor
        [B, n] int64.
    seen : Tensor
        [B, n, M] bool: which of the tree's tokens each new one sees, itself among them. All see the
        tokens before the tree.
    """

    position_ids: Tensor
    seen: Tensor

    @classmethod
    def of(cls, layout: tk.TreeLayout) -> Branches:
        """A whole tree, its root first; ``layout`` has been made with the root's position."""
        return cls(layout.position_ids, tk.tree_mask(layout, root=True))

    @classmethod
    def after(cls, seen: Tensor, position_ids: Tensor) -> Branches:
        """The next level: ``seen`` [B, n, M - n] is what the new tokens' parents see."""
        batch, n, _ = seen.shape
        own = torch.eye(n, dtype=torch.bool, device=seen.device).expand(batch, -1, -1)
        return cls(position_ids, torch.cat((seen, own), dim=-1))

    @property
    def among(self) -> int:
        return self.seen.shape[-1]

    def bits(self) -> Tensor:
        """[B, n, ceil(M/32)] int32, as ``tree_attention`` takes them."""
        padded = torch.nn.functional.pad(self.seen, (0, -self.among % 32))
        words = padded.unflatten(-1, (-1, 32)).long()
        return (words << torch.arange(32, device=words.device)).sum(-1).int()
