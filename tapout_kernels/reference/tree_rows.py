"""The rows of trees that ``tree_verify`` looks at, and the children on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .accept import GREEDY, GUMBEL
from .draft import Draft, draft_prob, full_distribution
from .gumbel import gumbel_index, gumbel_noise
from .stats import OK, TEMPERATURE, Processed, Sampling, process
from .tree import next_child
from .vocab import allowed_ids, draft_ids, target_ids


class Given(NamedTuple):
    """The arguments of ``tree_verify``, state as batch rows."""

    target_logits: Tensor  # [B, N+1, V]
    sampling: Sampling  # [B] each
    token_mask: Tensor | None  # [B, N+1, W]
    seed: Tensor  # [B] i64
    round: Tensor  # [B] i64
    position: Tensor  # [B] i64
    tokens: Tensor  # [B, N] i64
    first_child: Tensor  # [B, N+1]
    next_sibling: Tensor  # [B, N]
    draft: Draft | None  # of the N+1 rows, ``tokens`` their first children; None: one-hot
    rule: int


class Row(NamedTuple):
    """The row of each request that is being decided."""

    at: Tensor  # [B] i64, 0: the root, i + 1: node i
    child: Tensor  # [B] i64 node to look at next, -1: none
    target: Processed  # [B] rows
    chosen: Tensor  # [B] i64 the target's own token (greedy, gumbel)
    p_target: Tensor  # [B, V] what is left of it
    p_draft: Tensor | None  # [B, D] what is left of it
    spent: Tensor  # [B] bool: nothing is left of it, so that no further child can have been drawn


class Walk(NamedTuple):
    """How far each request has come."""

    row: Row
    count: Tensor  # [B] i64 accepted nodes
    bad: Tensor  # [B] bool: met a drafted id that the draft, or the target, cannot emit
    path: Tensor  # [B, N] i64


def row_at(given: Given, at: Tensor, count: Tensor) -> Row:
    """Row ``at`` [B] of every request, ``count`` [B] tokens after the root."""
    here = torch.arange(at.shape[0], device=at.device)
    logits = given.target_logits[here, at]
    ids = target_ids(None, logits.shape[-1], at.device)
    mask = None if given.token_mask is None else given.token_mask[here, at]
    target = process(logits, given.sampling, allowed_ids(mask, ids), given.rule == GREEDY)
    if given.rule == GUMBEL:
        noise = gumbel_noise(given.seed, given.position + count, ids)
        chosen = gumbel_index(target, noise)
    else:
        chosen = target.weights.argmax(-1)
    child = next_child(given.first_child[here, at], at, given.tokens.shape[1])
    child = torch.where(target.status == OK, child, -1)
    spent = torch.zeros_like(at, dtype=torch.bool)
    return Row(at, child, target, chosen, target.probs, _draft_row(given, at), spent)


def _draft_row(given: Given, at: Tensor) -> Tensor | None:
    """[B, D] p_draft of a row; at temperature 0 all of it is on the first child."""
    draft = given.draft
    if draft is None or given.rule in (GUMBEL, GREEDY):
        return None
    here = torch.arange(at.shape[0], device=at.device)
    full = full_distribution(draft, at[:, None])[:, 0]
    first = draft.ids[here, at]
    point = torch.zeros_like(full).scatter(-1, first.clamp(min=0)[:, None], 1.0)
    point = point * (draft_prob(draft)[here, at] > 0)[:, None]
    return torch.where(draft.stats[here, at, TEMPERATURE, None] == 0, point, full)


class Child(NamedTuple):
    """One child of the row of each request."""

    token: Tensor  # [B] i64
    inside: Tensor  # [B] bool: an id of the target
    id: Tensor  # [B] i64 draft id, -1 where there is none
    p_draft: Tensor  # [B] f64, 0 where it cannot have been drawn


def child_at(given: Given, node: Tensor, p_draft: Tensor | None) -> Child:
    """Node [B] as a child of a row with ``p_draft`` left."""
    here = torch.arange(node.shape[0], device=node.device)
    token = given.tokens[here, node.clamp(min=0)]
    inside = (token >= 0) & (token < given.target_logits.shape[-1])
    if p_draft is None:
        return Child(token, inside, token, inside.double())
    ids = draft_ids(token, given.draft.t2d)
    ids = torch.where((ids >= 0) & (ids < p_draft.shape[-1]), ids, -1)
    mass = p_draft.gather(-1, ids.clamp(min=0)[:, None])[:, 0]
    return Child(token, inside, ids, torch.where(ids >= 0, mass, 0.0))
