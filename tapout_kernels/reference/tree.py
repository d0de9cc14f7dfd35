"""Trees: parents, the bits of a row's ancestors, and rejection without replacement.

``tree_token`` (SpecInfer 2305.09781, Sequoia 2402.12374): the children of a row in the order they
were drawn, each accepted iff u * p_draft(x) < p_target(x); after a rejection p_target becomes
norm[p_target - p_draft]_+ and p_draft loses x and is renormalised.  If none is accepted the token
is drawn from what p_target has become.  A child that was not drawn is one-hot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import BLOCK, GREEDY, GUMBEL, TOKEN, residual
from .sampling import total_weight

ROOT, ABSENT = -1, -2  # in `parents`: a child of the root; no node
TREE_RULES = {
    "tree_token": TOKEN, "tree_traversal": BLOCK, "tree_gumbel": GUMBEL, "tree_greedy": GREEDY,
}  # fmt: skip


def next_child(child: Tensor, after: Tensor, nodes: int) -> Tensor:
    """A link as a node index, -1 for none: children come after their row and earlier siblings."""
    return torch.where((child >= after) & (child < nodes), child.long(), -1)


def rejected_target(p_target: Tensor, p_draft: Tensor) -> Tensor:
    """[R, V] norm[p_target - p_draft]_+; all zero where nothing is left (rounding)."""
    return _normalised(residual(p_target, p_draft))


def rejected_draft(p_draft: Tensor, ids: Tensor) -> Tensor:
    """[R, D] p_draft without ids [R], renormalised; all zero where nothing is left."""
    return _normalised(p_draft.scatter(-1, ids[:, None], 0.0))


def _normalised(weights: Tensor) -> Tensor:
    total = total_weight(weights)[:, None]
    return torch.where(total > 0, weights / total, 0.0)


def best_nodes(score: Tensor, count: int) -> Tensor:
    """[B, N] -> [B, count] i64 nodes of the best scores above -inf in ascending order, the lowest
    of a tie; then -2."""
    nodes = score.shape[1]
    score = torch.where(score > -torch.inf, score, -torch.inf)
    order = score.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    chosen = torch.where(score.gather(1, order) > -torch.inf, order, nodes).sort(-1).values
    chosen = torch.nn.functional.pad(chosen, (0, max(0, count - nodes)), value=nodes)
    return torch.where(chosen < nodes, chosen, ABSENT)


def pack_bits(visible: Tensor) -> Tensor:
    """[..., n] bool -> [..., ceil(n/32)] i32, bit i of word w is entry 32 w + i."""
    padded = torch.nn.functional.pad(visible, (0, -visible.shape[-1] % 32))
    words = padded.view(*visible.shape[:-1], -1, 32).long()
    return (words << torch.arange(32, device=visible.device)).sum(-1).to(torch.int32)


def unpack_bits(words: Tensor, size: int) -> Tensor:
    """[..., W] i32 -> [..., size] bool."""
    bits = words[..., None] >> torch.arange(32, device=words.device) & 1
    return bits.flatten(-2)[..., :size].bool()


def visible_rows(ancestors: Tensor, rows: int) -> Tensor:
    """[B, N, W] bits -> [B, Q, Q] bool; Q = N + 1 puts the root before the nodes."""
    nodes = ancestors.shape[1]
    seen = unpack_bits(ancestors, nodes)
    if rows == nodes:
        return seen
    seen = torch.nn.functional.pad(seen, (1, 0, 1, 0))
    seen[..., 0] = True  # the root sees itself and is seen by all
    return seen
