"""Reference ``tree_rerank``: the best candidates whose parents are among them, as a tree."""

from __future__ import annotations

import torch
from torch import Tensor

from .tree import ABSENT, ROOT, best_nodes


def tree_rerank(
    tokens: Tensor,  # [B, M] i64
    parents: Tensor,  # [B, M] i32
    score: Tensor,  # [B, M] f32
    out_tokens: Tensor,  # [B, N] i64, and everything below: written
    out_parents: Tensor,  # [B, N] i32
    node: Tensor,  # [B, N] i32 the candidate each node was
) -> None:
    batch, size = parents.shape
    candidate = torch.arange(size, device=parents.device)
    best = best_nodes(score, node.shape[1])
    chosen = torch.zeros(batch, size + 1, dtype=torch.bool, device=parents.device)
    chosen.scatter_(1, torch.where(best >= 0, best, size), True)
    kept = _closed(chosen[:, :size] & (parents >= ROOT) & (parents < candidate), parents)
    index = torch.where(kept, kept.cumsum(-1) - 1, node.shape[1])  # the last column takes the rest
    wide = torch.full((batch, node.shape[1] + 1), -1, device=parents.device)
    wide = wide.scatter(1, index, candidate.expand(batch, -1))
    found = wide[:, :-1]
    here = found >= 0
    old = found.clamp(min=0)
    parent = parents.gather(1, old).long()
    new = index.gather(1, parent.clamp(min=0))
    node.copy_(found)
    out_tokens.copy_(torch.where(here, tokens.gather(1, old), -1))
    out_parents.copy_(torch.where(here, torch.where(parent >= 0, new, ROOT), ABSENT))


def _closed(chosen: Tensor, parents: Tensor) -> Tensor:
    """[B, M] bool: chosen, and all ancestors are; pointers double their reach in every step."""
    size = chosen.shape[1]
    fine = torch.nn.functional.pad(chosen, (0, 1), value=True)  # the root is the last column
    above = torch.where((parents >= 0) & chosen, parents.long(), size)
    above = torch.nn.functional.pad(above, (0, 1), value=size)
    for _ in range(size.bit_length()):
        fine = fine & fine.gather(1, above)
        above = above.gather(1, above)
    return fine[:, :size]
