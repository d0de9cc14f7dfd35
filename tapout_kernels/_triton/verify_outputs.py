"""What verify writes of each request."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.accept import accept_probability
from .core.sampling import GREEDY, GUMBEL
from .core.stats import OK
from .verify_request import LANES
from .verify_rows import GOOD, KEPT, MAXIMUM, NUM_CODES, NUM_NUMBERS, P_DRAFT, P_TARGET, RAW_LSE


class Verdict(NamedTuple):
    """Outputs."""

    tokens: object  # [B, K+1] i64
    num_accepted: object  # [B] i32, and the next
    num_emitted: object
    last_token: object  # [B] i64
    status: object  # [B] i32
    accept_prob: object  # [B, K] f32
    overlap: object  # [B, K] f32 or None
    logprobs: object  # [B, K+1] f32 or None


@triton.jit
def target_logits_at(target, b, slot, token, known):
    """float32 logits of one token of each slot."""
    first, at = b.to(tl.int64), slot.to(tl.int64)
    if target.row_start is not None:
        at += tl.load(target.row_start + b)
        first = first * 0
    start = first * target.batch_stride + at * target.row_stride
    return tl.load(target.logits + start + token, mask=known, other=0.0).to(tl.float32)


@triton.jit
def write_tokens(
    verdict, target, drafts, drawn, found, request, accepted, emitted, token,
    RAW: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    """Tokens and log-probabilities of every slot; -1 and 0 where nothing is emitted."""
    b, slots = request.b.to(tl.int64), drafts.slots
    for first in range(0, slots + 1, LANES):
        slot = first + tl.arange(0, LANES)
        drafted, known = slot < accepted, slot < emitted
        each = tl.load(drafts.tokens + b * slots + slot, mask=drafted, other=-1)
        each = tl.where(drafted, each, tl.where(known, token.to(tl.int64), -1))
        tl.store(verdict.tokens + b * (slots + 1) + slot, each, mask=slot <= slots)
        if verdict.logprobs is not None:
            z = target_logits_at(target, request.b, slot, each, known).to(tl.float64)
            at = found.numbers + (request.first + slot) * NUM_NUMBERS
            if RAW:
                value = z - tl.load(at + RAW_LSE, mask=known, other=0.0)
            elif RULE == GREEDY:
                value = z * 0.0
            else:
                maximum = tl.load(at + MAXIMUM, mask=known, other=0.0)
                kept = tl.load(at + KEPT, mask=known, other=1.0)
                value = (z - maximum) * drawn.inv_temperature - tl.log(kept)
                value = tl.where(drawn.one_hot, 0.0, value)
            value = tl.where(known, value, 0.0).to(tl.float32)
            tl.store(verdict.logprobs + b * (slots + 1) + slot, value, mask=slot <= slots)


@triton.jit
def write_accept_prob(verdict, found, request, slots, decided, RULE: tl.constexpr):
    for first in range(0, slots, LANES):
        slot = first + tl.arange(0, LANES)
        known = slot < decided
        if RULE == GUMBEL or RULE == GREEDY:
            at = found.codes + (request.first + slot) * NUM_CODES
            value = tl.load(at + GOOD, mask=known, other=0).to(tl.float64)
        else:
            at = found.numbers + (request.first + slot) * NUM_NUMBERS
            p_target = tl.load(at + P_TARGET, mask=known, other=1.0)
            value = accept_probability(p_target, tl.load(at + P_DRAFT, mask=known, other=1.0))
        value = tl.where(known, value, -1.0).to(tl.float32)
        at = verdict.accept_prob + request.b.to(tl.int64) * slots + slot
        tl.store(at, value, mask=slot < slots)


@triton.jit
def write_dead(verdict, b, slots):
    for first in range(0, slots + 1, LANES):
        slot = first + tl.arange(0, LANES)
        at = b.to(tl.int64) * (slots + 1) + slot
        tl.store(verdict.tokens + at, tl.full([LANES], -1, tl.int64), mask=slot <= slots)
        if verdict.logprobs is not None:
            tl.store(verdict.logprobs + at, tl.zeros([LANES], tl.float32), mask=slot <= slots)
        at = b.to(tl.int64) * slots + slot
        missing = tl.full([LANES], -1.0, tl.float32)
        tl.store(verdict.accept_prob + at, missing, mask=slot < slots)
        if verdict.overlap is not None:
            tl.store(verdict.overlap + at, missing, mask=slot < slots)
    write_counts(verdict, b, 0, 0, tl.full([], 0, tl.int64), OK)


@triton.jit
def write_counts(verdict, b, accepted, emitted, last, status):
    tl.store(verdict.num_accepted + b, accepted)
    tl.store(verdict.num_emitted + b, emitted)
    tl.store(verdict.last_token + b, last)
    tl.store(verdict.status + b, status)
