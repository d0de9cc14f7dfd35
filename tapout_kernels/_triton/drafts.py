"""The draft's side of a verification: which distribution every drafted token was drawn from."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.accept import draft_probability
from .core.sampling import BLOCK, GREEDY, SMALLEST_RATE, TOKEN
from .core.stats import CUTOFF, NUM_STATS, TEMPERATURE, TOKEN_LOGPROB
from .row import known_row


class Drafts(NamedTuple):
    """Kept drafts of a whole batch."""

    tokens: object  # [B, K] i64
    stats: object  # [B, K, 8] f32
    logits: object  # [L, K, D], or None: one-hot
    logits_row: object  # [B] i32, or None
    t2d: object  # [T] i32, or None
    slots: object  # i32 K
    batch_stride: object
    row_stride: object
    rows: object  # L
    vocab: object  # i32 D
    target_ids: object  # i32 T


class Draft(NamedTuple):
    """One drafted token."""

    token: object  # i64
    p_draft: object  # f64; 0 where the kept row or the draft vocabulary lacks it
    one_hot: object  # p_draft has all its mass on the token
    bad: object  # cannot have been drawn: the draft ends before it
    foreign: object  # drawn, but no id of the target: p_target = 0, so it is rejected


class DraftRow(NamedTuple):
    """A kept row, relative to the drafted token's own logit: what the token was drawn from."""

    logits: object
    token_logit: object  # f32
    token_logprob: object  # f32
    cutoff: object  # f32
    rate: object  # f32 1/T of the draft


@triton.jit
def draft_stats(drafts, b, slot):
    return drafts.stats + (b.to(tl.int64) * drafts.slots + slot) * NUM_STATS


@triton.jit
def draft_ids(drafts, ids):
    """Draft ids of target ids >= 0, any shape; -1 where the draft vocabulary lacks one."""
    if drafts.t2d is not None:
        found = tl.load(drafts.t2d + ids, mask=ids < drafts.target_ids, other=-1)
    else:
        found = ids
    return tl.where(found < drafts.vocab, found, -1)


@triton.jit
def kept_logits(drafts, b, slot):
    """The kept row of a slot and whether there is one."""
    home, known = known_row(drafts.logits_row, b, drafts.rows)
    return drafts.logits + home * drafts.batch_stride + slot * drafts.row_stride, known


@triton.jit
def draft_at(drafts, b, slot, vocab, RULE: tl.constexpr):
    """``vocab`` of the target."""
    token = tl.load(drafts.tokens + b.to(tl.int64) * drafts.slots + slot)
    inside = (token >= 0) & (token < vocab)
    if RULE == GREEDY or drafts.logits is None:
        p_draft, one_hot = tl.full([], 1.0, tl.float64), slot >= 0
        bad, foreign = inside == 0, slot < 0
    else:
        stats = draft_stats(drafts, b, slot)
        _, known = kept_logits(drafts, b, slot)
        id_ = draft_ids(drafts, tl.maximum(token, 0))
        drawn = draft_probability(tl.load(stats + TOKEN_LOGPROB).to(tl.float64))
        p_draft = tl.where(known & (token >= 0) & (id_ >= 0), drawn, 0.0)
        one_hot = tl.load(stats + TEMPERATURE) == 0.0
        if RULE == TOKEN or RULE == BLOCK:
            bad, foreign = (p_draft > 0.0) == 0, (inside == 0) & (p_draft > 0.0)
        else:
            bad, foreign = inside == 0, slot < 0
    return Draft(token, p_draft, one_hot, bad, foreign)


@triton.jit
def draft_row(drafts, b, slot, token):
    """Of a draft that is not one-hot and of p_draft > 0."""
    logits, _ = kept_logits(drafts, b, slot)
    stats = draft_stats(drafts, b, slot)
    token_logit = tl.load(logits + draft_ids(drafts, token)).to(tl.float32)
    temperature = tl.load(stats + TEMPERATURE).to(tl.float64)
    rate = tl.maximum(1.0 / temperature, SMALLEST_RATE).to(tl.float32)
    return DraftRow(
        logits, token_logit, tl.load(stats + TOKEN_LOGPROB), tl.load(stats + CUTOFF), rate
    )


@triton.jit
def p_draft_of(drafts, kept, ids, inside):
    """float32 p_draft of target ids, any shape."""
    if drafts.t2d is not None:
        column = draft_ids(drafts, ids)
        known = inside & (column >= 0)
    else:  # plainly consecutive, so that loads are wide
        column, known = ids, inside & (ids < drafts.vocab)
    return p_draft_of_columns(kept, column, known)


@triton.jit
def p_draft_of_columns(kept, column, known):
    """float32 p_draft of columns of a kept row, any shape."""
    z = tl.load(kept.logits + column, mask=known, other=float("-inf")).to(tl.float32)
    log_p = kept.token_logprob + (z - kept.token_logit) * kept.rate
    keeps = (z >= kept.cutoff) & (z > float("-inf"))
    return tl.where(keeps, tl.exp(tl.minimum(log_p, 0.0)), 0.0)
