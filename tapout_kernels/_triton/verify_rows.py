"""verify, first launch: the law of every target row that is needed, and what it says of its draft.

Programs are ordered by slot, so that the first rows of all requests run first.  A row that cannot
be accepted says so; rows after it that have not begun are skipped.  Skipping changes no result.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.accept import accepts
from .core.rng import ACCEPT, uniform_at
from .core.sampling import GREEDY, GUMBEL, TOKEN, row_sampling
from .core.stats import EMPTY, OK
from .drafts import Drafts, draft_at
from .finish import arrives_last
from .gumbel import Noise
from .law import column_log_probability, draw_gumbel, finish_row, merge_raw
from .row import GROUP, Row, RowScratch, known_row
from .scan import scan_row

# Columns of the scratch a row leaves for the second launch: float64 numbers,
MAXIMUM = tl.constexpr(0)
KEPT = tl.constexpr(1)
CUTOFF = tl.constexpr(2)
P_TARGET = tl.constexpr(3)  # of the drafted token
P_DRAFT = tl.constexpr(4)
RAW_LSE = tl.constexpr(5)
NUM_NUMBERS = tl.constexpr(8)
# and int32 codes.
STATUS = tl.constexpr(0)
GOOD = tl.constexpr(1)  # the draft is accepted if those before it are
BAD = tl.constexpr(2)
FOREIGN = tl.constexpr(3)
COUNT = tl.constexpr(4)  # listed groups of a filtered row
TOKEN_ID = tl.constexpr(5)  # the target's own token: argmax, or the winner of gumbel
NUM_CODES = tl.constexpr(8)


class Target(NamedTuple):
    """Target logits of a whole batch."""

    logits: object  # [B, K+1, V], or ragged [n, V]
    row_start: object  # [B+1] i32, or None
    mask: object  # rows like those of the logits, or None
    batch_stride: object
    row_stride: object
    vocab: object
    rows: object  # n
    mask_batch_stride: object
    mask_row_stride: object
    words: object


class Found(NamedTuple):
    """[B, K+1] rows of what the first launch leaves."""

    numbers: object  # f64
    codes: object  # i32
    raw: object  # [rows, tiles, 2] f32 maximum and sum of the raw row, or None
    decided: object  # [B] i32, 0 or K + 1 - the first slot known to fail


@triton.jit
def target_at(target, b, slot):
    """Where the row of a slot begins, and its mask; whether the layout has that row."""
    exists = slot >= 0
    first, at = b.to(tl.int64), slot.to(tl.int64)
    if target.row_start is not None:
        begin = tl.load(target.row_start + b).to(tl.int64)
        at += begin
        end = tl.load(target.row_start + b + 1).to(tl.int64)
        exists = (begin >= 0) & (at < end) & (at < target.rows)
        at, first = tl.where(exists, at, 0), first * 0
    start = first * target.batch_stride + at * target.row_stride
    return start, first * target.mask_batch_stride + at * target.mask_row_stride, exists


@triton.jit
def request_length(length, b, slots):
    return tl.minimum(tl.maximum(tl.load(length + b), 0), slots)


@triton.jit
def p_target_of(row, drawn, law, draft):
    found = tl.exp(column_log_probability(row, drawn, law, draft.token))
    return tl.where(draft.foreign, 0.0, found)


@triton.jit
def store_row(found, at, law, p_target, p_draft, raw_lse, good, draft_bad, foreign, token):
    numbers, codes = found.numbers + at * NUM_NUMBERS, found.codes + at * NUM_CODES
    tl.store(numbers + MAXIMUM, law.maximum)
    tl.store(numbers + KEPT, law.kept)
    tl.store(numbers + CUTOFF, law.cutoff.to(tl.float64))
    tl.store(numbers + P_TARGET, p_target)
    tl.store(numbers + P_DRAFT, p_draft)
    tl.store(numbers + RAW_LSE, raw_lse)
    tl.store(codes + STATUS, law.status)
    tl.store(codes + GOOD, good.to(tl.int32))
    tl.store(codes + BAD, draft_bad.to(tl.int32))
    tl.store(codes + FOREIGN, foreign.to(tl.int32))
    tl.store(codes + COUNT, law.count)
    tl.store(codes + TOKEN_ID, token)


@triton.jit
def announce(found, b, slot, slots):
    """Rows after ``slot`` are not needed."""
    tl.atomic_max(found.decided + b, slots + 1 - slot, sem="relaxed")


@triton.jit
def is_skipped(found, b, slot, slots):
    """Once true for a program it stays true for those that arrive after it.

    One thread reads and tells the others, as an atomic does.  A load is every thread's own: while
    another program announces, some would go past the barriers that the rest wait at.
    """
    return tl.atomic_max(found.decided + b, 0, sem="relaxed") > slots + 1 - slot


@triton.jit
def judge_row(
    row, drawn, own, found, drafts, rng, noise, b, slot, length, tiles,
    RULE: tl.constexpr, EVERY_ROW: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Finish a row and decide on the draft in its slot, as far as the row alone can."""
    law = finish_row(row, drawn, own, tiles, False, TILE, PRECISION, PIVOTS, LISTED)
    zero, no = tl.full([], 0.0, tl.float64), slot < 0
    p_target, p_draft, raw_lse, good, bad, foreign = zero, zero, zero, no, no, no
    token = law.argmax
    if law.status == OK:
        if found.raw is not None:
            raw_lse = merge_raw(found.raw, tiles)
        if RULE == GUMBEL:
            token = draw_gumbel(row, drawn, own, law, tiles, noise, LISTED)
        if slot < length:
            draft = draft_at(drafts, b, slot, row.vocab, RULE)
            bad, foreign, p_draft = draft.bad, draft.foreign, draft.p_draft
            p_target = p_target_of(row, drawn, law, draft)
            if RULE == TOKEN:
                at = slot.to(tl.int64)
                uniform = uniform_at(noise.seed, at, tl.load(rng.round + b), ACCEPT)
                good = (bad == 0) & accepts(uniform, p_target, p_draft)
            elif RULE == GUMBEL or RULE == GREEDY:
                good = (bad == 0) & (token == draft.token)
    at = b.to(tl.int64) * (drafts.slots + 1) + slot
    store_row(found, at, law, p_target, p_draft, raw_lse, good, bad, foreign, token)
    ends = (law.status != OK) | bad | foreign
    if EVERY_ROW == 0:
        ends = ends | (good == 0)
    if ends:
        announce(found, b, slot, drafts.slots)


@triton.jit(
    do_not_specialize=[
        "rows_given", "mask_batch_stride", "mask_row_stride", "words", "draft_rows", "target_ids",
        "state_rows", "batch", "slots", "splits",
    ]
)  # fmt: skip
def verify_rows_kernel(
    logits, row_start, mask, batch_stride: tl.int64, row_stride: tl.int64, vocab: tl.int64,
    rows_given: tl.int64, mask_batch_stride: tl.int64, mask_row_stride: tl.int64, words: tl.int64,
    draft_tokens, stats, draft_logits, logits_row, t2d, draft_batch_stride: tl.int64,
    draft_row_stride: tl.int64, draft_rows: tl.int64, draft_vocab: tl.int64, target_ids: tl.int64,
    sampling, rng, length, live, rows, state_rows: tl.int64, found, scratch, tickets,
    batch: tl.int32, slots: tl.int64, splits: tl.int32,
    RULE: tl.constexpr, EVERY_ROW: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    split = (tl.program_id(0) % splits).to(tl.int32)
    b = ((tl.program_id(0) // splits) % batch).to(tl.int32)
    slot = (tl.program_id(0) // splits // batch).to(tl.int32)
    target = Target(
        logits, row_start, mask, batch_stride, row_stride, vocab, rows_given,
        mask_batch_stride, mask_row_stride, words,
    )  # fmt: skip
    drafts = Drafts(
        draft_tokens, stats, draft_logits, logits_row, t2d, slots.to(tl.int32),
        draft_batch_stride, draft_row_stride, draft_rows, draft_vocab.to(tl.int32),
        target_ids.to(tl.int32),
    )  # fmt: skip
    r, known = known_row(rows, b, state_rows)
    drafted = request_length(length, b, drafts.slots)
    at = b.to(tl.int64) * (drafts.slots + 1) + slot
    if known & tl.load(live + b) & (slot <= drafted):
        start, mask_at, exists = target_at(target, b, slot)
        if exists:
            row = Row(
                target.logits + start, target.vocab.to(tl.int32), target.mask, mask_at,
                target.words.to(tl.int32), None,
            )  # fmt: skip
            tiles = tl.cdiv(vocab, TILE).to(tl.int32)
            own = RowScratch(scratch, at * tiles, at * tiles * (TILE // GROUP))
            drawn = row_sampling(sampling, r, row.vocab, RULE)
            noise = Noise(tl.load(rng.seed + r), tl.load(rng.position + r) + slot)
            raw = found.raw
            if raw is not None:
                raw += at * tiles * 2
            mine = Found(found.numbers, found.codes, raw, found.decided)
            if is_skipped(found, b, slot, drafts.slots) == 0:
                scan_row(row, drawn, own, noise, None, raw, split, splits, tiles, RULE, False, TILE)
            if arrives_last(tickets + at, splits):
                if is_skipped(found, b, slot, drafts.slots) == 0:
                    judge_row(
                        row, drawn, own, mine, drafts, rng, noise, b, slot, drafted, tiles,
                        RULE, EVERY_ROW, TILE, PRECISION, PIVOTS, LISTED,
                    )  # fmt: skip
        elif split == 0:
            tl.store(found.codes + at * NUM_CODES + STATUS, tl.full([], EMPTY, tl.int32))
            announce(found, b, slot, drafts.slots)
