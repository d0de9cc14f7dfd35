"""Reference ``tree_layout``: what parent pointers say of every node."""

from __future__ import annotations

import torch
from torch import Tensor

from .tree import ABSENT, ROOT, pack_bits


def tree_layout(
    parents: Tensor,  # [B, N] i32
    position: Tensor | None,  # [B] i64
    size: Tensor,  # [B] i32, and everything below: written
    valid: Tensor,  # [B] bool
    depth: Tensor,  # [B, N] i32
    position_ids: Tensor,  # [B, N+1] i64
    first_child: Tensor,  # [B, N+1] i32, of the root and of every node
    next_sibling: Tensor,  # [B, N] i32
    ancestors: Tensor,  # [B, N, ceil(N/32)] i32
) -> None:
    nodes = parents.shape[1]
    index = torch.arange(nodes, device=parents.device)
    count = (parents != ABSENT).long().cumprod(-1).sum(-1)
    inside = index < count[:, None]
    fine = torch.where(inside, (parents >= ROOT) & (parents < index), parents == ABSENT).all(-1)
    here = inside & fine[:, None]
    parent = torch.where(here, parents, ROOT).long()
    seen = _ancestors(parent, here)
    size.copy_(torch.where(fine, count, 0))
    valid.copy_(fine)
    depth.copy_(torch.where(here, seen.sum(-1), 0))
    offset = torch.nn.functional.pad(depth, (1, 0)).long()
    position_ids.copy_(offset if position is None else offset + position[:, None])
    _link(parent, here, first_child, next_sibling)
    ancestors.copy_(pack_bits(seen))


def _ancestors(parent: Tensor, here: Tensor) -> Tensor:
    """[B, N, N] bool: a node sees itself and its ancestors, one that is absent itself alone."""
    batch, nodes = parent.shape
    row = torch.arange(batch, device=parent.device)
    seen = torch.zeros(
        batch, nodes + 1, nodes, dtype=torch.bool, device=parent.device
    )  # root first
    for node in range(nodes):
        above = seen[row, parent[:, node] + 1] & here[:, node, None]
        seen[:, node + 1] = above
        seen[:, node + 1, node] = True
    return seen[:, 1:]


def _link(parent: Tensor, here: Tensor, first_child: Tensor, next_sibling: Tensor) -> None:
    """From the last node to the first: each is put before the siblings that come after it."""
    row = torch.arange(parent.shape[0], device=parent.device)
    first = torch.full_like(first_child, -1)
    for node in reversed(range(parent.shape[1])):
        at, found = parent[:, node] + 1, here[:, node]
        old = first[row, at]
        next_sibling[:, node] = torch.where(found, old, -1)
        first[row, at] = torch.where(found, node, old)
    first_child.copy_(first)
