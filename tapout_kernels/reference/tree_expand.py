"""Reference ``tree_expand``: one level of a drafted tree.

The children of a row are its most probable ids, or drawn without replacement: child after child
from what the ones before it have left (the law of Gumbel-top-k), each with the uniform of its node.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rng import DRAFT, uniform
from .rows import StateRows
from .sampling import sample_index, total_weight
from .stats import OK, Processed, Sampling, process, row_stats_of, token_logprob
from .tree import ABSENT, ROOT, best_nodes
from .vocab import allowed_ids, target_ids


class Level(NamedTuple):
    """One row of logits of every request, and where its children go."""

    node: Tensor  # [B] i64 the node the row belongs to
    begin: Tensor  # [] i64 its first child
    count: Tensor  # [] i64 children
    writes: Tensor  # [B] bool: the request drafts, and its children have a place
    rows: Processed
    exists: Tensor  # [B] bool: and the row is one of the tree's
    can: Tensor  # [B] bool: and there is something to choose children from
    seed: Tensor  # [B] i64
    round: Tensor  # [B] i64


class Tree(NamedTuple):
    """What is written, and how ids of columns are called."""

    tokens: Tensor  # [B, N] i64
    parents: Tensor  # [B, N] i32
    score: Tensor  # [B, N] f32
    ids: Tensor  # [D] i64


def _level(
    tree: Tree, node: Tensor, starts: Tensor, children: int, drafting: Tensor, rows: Processed,
    seed: Tensor, round: Tensor,
) -> Level:  # fmt: skip
    nodes, (begin, end) = tree.tokens.shape[1], starts.long()
    count = (end - begin).clamp(0, children)
    fits = (begin > node) & (begin >= 0) & (begin + count <= nodes)
    inside = (node >= 0) & (node < nodes)
    token = tree.tokens.gather(1, torch.where(inside, node, 0)[:, None])[:, 0]
    writes = drafting & fits & (count > 0)
    exists = writes & ((node == ROOT) | inside & (token >= 0))
    return Level(
        node, begin, count, writes, rows, exists, exists & (rows.status == OK), seed, round
    )


def _choose(level: Level, left: Tensor, child: Tensor, drawn: bool) -> tuple[Tensor, Tensor]:
    """[B] the column of a child, and whether there is one."""
    if not drawn:
        return left.argmax(-1), left.amax(-1) > -torch.inf
    u = uniform(level.seed, 0, child.expand_as(level.seed), level.round, DRAFT)
    return sample_index(left, u), total_weight(left) > 0


def _expand(tree: Tree, level: Level, children: int, drawn: bool) -> Tensor:
    """Write the children of one row of every request; [B] the first one's column."""
    rows, nodes = level.rows, torch.arange(tree.tokens.shape[1], device=level.node.device)
    above = tree.score.gather(1, level.node.clamp(0, len(nodes) - 1)[:, None])[:, 0].double()
    above = torch.where(level.node >= 0, above, 0.0)
    kept = (rows.temperature > 0)[:, None] | (rows.weights > 0)
    kept &= rows.logits >= rows.cutoff[:, None]
    left = rows.weights if drawn else torch.where(kept, rows.logits, -torch.inf)
    parent = torch.where(level.node >= ROOT, level.node, ABSENT).int()
    first = None
    for c in range(children):
        child = level.begin + c
        column, some = _choose(level, left, child, drawn)
        found = level.can & some
        here = (nodes == child) & (level.writes & (c < level.count))[:, None]
        score = torch.where(found, above + token_logprob(rows, column), -torch.inf).float()
        token = torch.where(found, tree.ids[column], -1)
        for state, value in ((tree.tokens, token), (tree.parents, parent), (tree.score, score)):
            state.copy_(torch.where(here, value[:, None], state))
        left = left.scatter(1, column[:, None], 0.0 if drawn else -torch.inf)
        first = column if first is None else first
    return first


def _keep(
    level: Level, first: Tensor, raw: Tensor, kept: Tensor | None, stats: Tensor | None
) -> None:
    """What the children were drawn from, at the row of their parent."""
    b = torch.arange(len(first), device=first.device)
    at = torch.where(level.exists, level.node + 1, 0)
    if stats is not None:
        row = row_stats_of(level.rows, first)
        stats[b, at] = torch.where(level.exists[:, None], row, stats[b, at])
    if kept is not None:
        kept[b, at] = torch.where(level.can[:, None], raw, kept[b, at])


def _next(
    tree: Tree, drafting: Tensor, child_start: Tensor, next_node: Tensor | None, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """[B, n] the next level's nodes (-2: none), the rows they hang on, and their tokens."""
    nodes = torch.arange(tree.tokens.shape[1], device=drafting.device)
    inside = (nodes >= child_start[0]) & (nodes < child_start[-1])
    if next_node is None:
        beam = best_nodes(torch.where(inside, tree.score, -torch.inf), count)
    else:
        known = (next_node >= 0) & (next_node < len(nodes))
        beam = torch.where(known, next_node, ABSENT).long().expand(len(drafting), -1)
    beam = torch.where(drafting[:, None], beam, ABSENT)
    first, last = child_start[:-1].long(), child_start[1:].long()
    among = (beam[..., None] >= first) & (beam[..., None] < last)  # [B, n, W]
    row = torch.where(beam >= 0, among.int().argmax(-1), 0)
    token = tree.tokens.gather(1, beam.clamp(min=0))
    return beam, row, torch.where((beam >= 0) & (token >= 0), token, 0)


def beam_logsumexp(score: Tensor, beam: Tensor) -> Tensor:
    """[B] f64 of the cumulative log-probabilities of a beam; -inf where there is none."""
    found = score.gather(1, beam.clamp(min=0).long()).double()
    return torch.where((beam >= 0) & (found > -torch.inf), found, -torch.inf).logsumexp(-1)


def tree_expand(
    logits: Tensor,  # [B, W, D]
    temperature: Tensor | None,  # [R], and the other sampling parameters
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,  # [B, W, words] i32
    d2t: Tensor | None,  # [D] i32
    seed: Tensor,  # [R] i64
    rows: Tensor | None,  # [B] i32
    round: Tensor,  # [B] i64
    beam: Tensor,  # [B, W] i32 the node of each row
    child_start: Tensor,  # [W+1] i32
    next_node: Tensor | None,  # [n] i32
    threshold: Tensor | None,  # [B] f32
    children: int,
    drawn: bool,
    active: Tensor,  # [B] bool, and everything below: written
    depth: Tensor,  # [B] i32
    tokens: Tensor,  # [B, N] i64
    parents: Tensor,  # [B, N] i32
    score: Tensor,  # [B, N] f32
    kept_logits: Tensor | None,  # [B, N+1, D]
    stats: Tensor | None,  # [B, N+1, 8]
    next_beam: Tensor | None,  # [B, n] i32
    next_row: Tensor | None,  # [B, n] i32
    next_token: Tensor | None,  # [B, n] i64
) -> None:
    state = StateRows(rows, seed.shape[0], tokens.device)
    drafting = active & state.known
    tree = Tree(tokens, parents, score, target_ids(d2t, logits.shape[-1], tokens.device))
    sampling = Sampling(temperature, top_k, top_p, min_p).map(state.of)
    for w in range(beam.shape[1]):
        mask = None if token_mask is None else token_mask[:, w]
        allowed = allowed_ids(mask, tree.ids)
        law = process(logits[:, w], sampling, allowed)
        node, starts = beam[:, w].long(), child_start[w : w + 2]
        level = _level(tree, node, starts, children, drafting, law, state.of(seed), round)
        first = _expand(tree, level, children, drawn)
        raw = logits[:, w]
        if allowed is not None:
            raw = raw.masked_fill(~allowed, -torch.inf)
        _keep(level, first, raw, kept_logits, stats)
    _finish(tree, drafting, child_start, next_node, threshold, active, depth,
            (next_beam, next_row, next_token))  # fmt: skip


def _finish(
    tree: Tree, drafting: Tensor, child_start: Tensor, next_node: Tensor | None,
    threshold: Tensor | None, active: Tensor, depth: Tensor, following: tuple[Tensor | None, ...],
) -> None:  # fmt: skip
    """The level's end: who goes on, and with which rows."""
    nodes = torch.arange(tree.tokens.shape[1], device=drafting.device)
    inside = (nodes >= child_start[0]) & (nodes < child_start[-1])
    grown = drafting & (inside & (tree.tokens >= 0)).any(-1)
    depth.add_(grown)
    goes_on = grown
    if following[0] is not None:
        found = _next(tree, drafting, child_start, next_node, following[0].shape[1])
        for out, value in zip(following, found, strict=True):
            out.copy_(value)
        if threshold is not None:
            stops = beam_logsumexp(tree.score, following[0]) < threshold.double()
            goes_on = grown & ~stops
    active.copy_(torch.where(drafting, goes_on, active))
