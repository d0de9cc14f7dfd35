"""The children of the rows of a tree, and what they were drawn from."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.accept import draft_probability
from .core.stats import TEMPERATURE, TOKEN_LOGPROB
from .core.tree import next_child
from .drafts import draft_ids, draft_row, draft_stats, kept_logits, p_draft_of


class Tree(NamedTuple):
    """Trees of a whole batch; row 0 is the root, row i + 1 node i."""

    tokens: object  # [B, N] i64
    first_child: object  # [B, N+1] i32
    next_sibling: object  # [B, N] i32
    valid: object  # [B] bool
    nodes: object  # i32


class Child(NamedTuple):
    token: object  # i64
    p_draft: object  # f64
    bad: object  # cannot have been drawn: the children end before it
    foreign: object  # drawn, but no id of the target
    lost: object  # nothing of p_target is left on it, so that it is rejected


@triton.jit
def first_child(tree, b, row):
    link = tl.load(tree.first_child + b.to(tl.int64) * (tree.nodes + 1) + row)
    return tl.where(tl.load(tree.valid + b), next_child(link, row, tree.nodes), -1)


@triton.jit
def next_sibling(tree, b, node):
    link = tl.load(tree.next_sibling + b.to(tl.int64) * tree.nodes + node)
    return next_child(link, node + 1, tree.nodes)


@triton.jit
def token_of(tree, b, node):
    return tl.load(tree.tokens + b.to(tl.int64) * tree.nodes + node)


@triton.jit
def among(tree, b, row, last, ids):
    """Which ids of any shape are children of the row up to node ``last``."""
    found = ids < 0
    node = first_child(tree, b, row)
    while (node >= 0) & (node <= last):
        found = found | (ids == token_of(tree, b, node))
        node = next_sibling(tree, b, node)
    return found


@triton.jit
def p_first(drafts, b, row, token):
    """Of the first child; 0 or NaN: it cannot have been drawn."""
    _, known = kept_logits(drafts, b, row)
    id_ = draft_ids(drafts, tl.maximum(token, 0))
    drawn = draft_probability(tl.load(draft_stats(drafts, b, row) + TOKEN_LOGPROB).to(tl.float64))
    return tl.where(known & (token >= 0) & (id_ >= 0), drawn, 0.0)


@triton.jit
def is_certain(drafts, b, row):
    """All of p_draft is on the first child, so that the others are rejected unseen."""
    return tl.load(draft_stats(drafts, b, row) + TEMPERATURE) == 0.0


@triton.jit
def child_of(tree, drafts, b, row, node, vocab):
    """Of a row whose children before it were rejected.  Without draft logits it is one-hot."""
    token = token_of(tree, b, node)
    inside = (token >= 0) & (token < vocab)
    repeated = among(tree, b, row, node - 1, token)
    p_draft, bad = tl.full([], 1.0, tl.float64), inside == 0
    foreign, lost = node < 0, repeated
    if drafts.logits is not None:
        first = first_child(tree, b, row)
        if node == first:
            p_draft = p_first(drafts, b, row, token)
        else:
            kept = draft_row(drafts, b, row, token_of(tree, b, first))
            known = (token >= 0) & (repeated == 0)
            p_draft = p_draft_of(drafts, kept, tl.maximum(token, 0), known).to(tl.float64)
        bad = (p_draft > 0.0) == 0
        foreign = (inside == 0) & (p_draft > 0.0)
        lost = foreign
    return Child(token, p_draft, bad, foreign, lost)
