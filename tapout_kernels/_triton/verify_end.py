"""verify, second launch: which drafts are accepted, what is emitted after them, every output.

Programs share the sums over two distributions that a replacement, block or overlap needs; the last
of a request to arrive decides, draws and writes.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.accept import accept_probability, block_accepts, block_may_accept, one_hot_residual
from .core.rng import ACCEPT, RESIDUAL
from .core.sampling import BLOCK, GREEDY, GUMBEL, row_sampling
from .core.stats import BAD_DRAFT, OK
from .drafts import Drafts, draft_at, draft_row, p_draft_of
from .draw import total_mass
from .finish import arrives_last
from .law import draw, tile_weights
from .residual import Pair, draw_excess
from .row import RECORD, scratch_of, state_row
from .search import Peak, keep_from
from .verify_request import (
    LANES,
    MERGED,
    Request,
    Sums,
    code,
    find_end,
    law_of,
    noise_at,
    number,
    sum_pair,
    weight_of,
)
from .verify_rows import (
    FOREIGN,
    GOOD,
    KEPT,
    MAXIMUM,
    NUM_CODES,
    NUM_NUMBERS,
    P_DRAFT,
    P_TARGET,
    RAW_LSE,
    TOKEN_ID,
    Target,
    request_length,
    target_row,
)


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


# ---- decisions ----------------------------------------------------------------------------------


@triton.jit
def sum_of(masses, home, sums, drawn, count, tiles):
    """What ``sum_pair`` left of one level."""
    chunks = tl.where(drawn.filtered, count, tiles)
    return total_mass(masses + home * sums.chunks, chunks, 1, MERGED)


@triton.jit
def p_draft_of_argmax(drafts, request, level, token, argmax):
    """Of a one-hot target row."""
    p_draft = tl.full([], 0.0, tl.float32)
    if drafts.logits is not None:
        kept = draft_row(drafts, request.b, level, token)
        p_draft = p_draft_of(drafts, kept, argmax, argmax >= 0)
    return p_draft.to(tl.float64)


@triton.jit
def level_holds(target, drafts, drawn, found, sums, request, level, home, tiles):
    """Level below the end, under `block`; level 0 always does."""
    w = weight_of(found, request, level, BLOCK)
    uniform = noise_at(request, tl.maximum(level - 1, 0), ACCEPT)
    holds = level == 0
    if (level > 0) & block_may_accept(uniform, w):
        draft = draft_at(drafts, request.b, level, target.vocab, BLOCK)
        if draft.one_hot:
            residual = one_hot_residual(w, number(found, request, level, P_TARGET))
        elif drawn.one_hot:
            argmax = code(found, request, level, TOKEN_ID)
            p_draft = p_draft_of_argmax(drafts, request, level, draft.token, argmax)
            residual = tl.maximum(w - p_draft, 0.0)
        else:
            count = law_of(found, request, level).count
            residual = sum_of(sums.residual, home + level, sums, drawn, count, tiles)
        holds = block_accepts(uniform, residual, w)
    return holds


@triton.jit
def accepted_level(target, drafts, drawn, found, sums, request, end, home, tiles):
    """The largest level that holds, under `block`."""
    level = end.slot
    if level > 0:
        uniform = noise_at(request, level - 1, ACCEPT)
        if block_may_accept(uniform, weight_of(found, request, level, BLOCK)) == 0:
            level -= 1
            while level_holds(target, drafts, drawn, found, sums, request, level, home, tiles) == 0:
                level -= 1
    return level


# ---- tokens -------------------------------------------------------------------------------------


@triton.jit
def take_out(row, drawn, own, law, column, TILE: tl.constexpr, LISTED: tl.constexpr):
    """Take a column's mass out of the masses of its row."""
    if drawn.filtered:
        if own.groups is not None:
            peak = Peak(law.maximum.to(tl.float32), drawn.inv_temperature.to(tl.float32))
            keep_from(row, own, law.count, law.cutoff, peak, column, LISTED)
    else:
        home = column // TILE
        _, w = tile_weights(row, drawn, own, law, home, column, TILE)
        tl.store(own.records + home * RECORD + 1, tl.sum(w, 0).to(tl.float32))
        tl.debug_barrier()


@triton.jit
def replacement(
    row, drafts, drawn, own, law, sums, found, request, draft, level, home, tiles,
    RULE: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """The token emitted in place of a rejected draft; without residual mass, one of p_target."""
    uniform = noise_at(request, level, RESIDUAL)
    token, without = tl.full([], -1, tl.int32), tl.full([], -1, tl.int32)
    if drawn.one_hot == 0:
        if draft.one_hot:
            if draft.foreign == 0:
                without = draft.token.to(tl.int32)
                take_out(row, drawn, own, law, without, TILE, LISTED)
        elif drafts.logits is not None:
            kept = draft_row(drafts, request.b, level, draft.token)
            w = weight_of(found, request, level, RULE)
            pair = Pair(row, law, drawn.inv_temperature.to(tl.float32), kept, w)
            masses = sums.residual + home * sums.chunks
            token = draw_excess(
                pair, drafts, own, masses, tiles, uniform, drawn.filtered, TILE, MERGED
            )
    if token < 0:
        token = draw(row, drawn, own, law, tiles, uniform, without, TILE)
    return tl.where(token < 0, without, token)


@triton.jit
def final_token(
    target, drafts, drawn, found, scratch, sums, request, end, accepted, home, tiles,
    RULE: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """What follows the accepted drafts."""
    token = code(found, request, accepted, TOKEN_ID)
    if RULE != GUMBEL and RULE != GREEDY:
        row, _ = target_row(target, request.b, accepted)
        own = scratch_of(scratch, request.first + accepted, tiles, TILE)
        law = law_of(found, request, accepted)
        if accepted < end.slot:
            draft = draft_at(drafts, request.b, accepted, row.vocab, RULE)
            token = replacement(
                row, drafts, drawn, own, law, sums, found, request, draft, accepted, home, tiles,
                RULE, TILE, LISTED,
            )  # fmt: skip
        else:
            uniform = noise_at(request, accepted, RESIDUAL)
            token = draw(row, drawn, own, law, tiles, uniform, -1, TILE)
    return token


# ---- outputs ------------------------------------------------------------------------------------


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
def overlap_of(target, drafts, drawn, found, sums, request, level, home, tiles, RULE: tl.constexpr):
    draft = draft_at(drafts, request.b, level, target.vocab, RULE)
    overlap = tl.full([], 0.0, tl.float64)
    if draft.one_hot:
        overlap = number(found, request, level, P_TARGET)
    elif draft.p_draft > 0.0:
        if drawn.one_hot:
            argmax = code(found, request, level, TOKEN_ID)
            overlap = p_draft_of_argmax(drafts, request, level, draft.token, argmax)
        else:
            count = law_of(found, request, level).count
            overlap = sum_of(sums.shared, home + level, sums, drawn, count, tiles)
    return overlap


@triton.jit
def write_overlap(
    verdict, target, drafts, drawn, found, sums, request, end, home, tiles, RULE: tl.constexpr
):
    at = verdict.overlap + request.b.to(tl.int64) * drafts.slots
    for level in range(drafts.slots):
        overlap = tl.full([], -1.0, tl.float64)
        if level < end.slot:
            overlap = overlap_of(
                target, drafts, drawn, found, sums, request, level, home, tiles, RULE
            )
        tl.store(at + level, overlap.to(tl.float32))


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


@triton.jit
def end_request(
    verdict, target, drafts, drawn, found, scratch, sums, request, end, position, tiles,
    RULE: tl.constexpr, RAW: tl.constexpr, EVERY_ROW: tl.constexpr,
    TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Decide, draw and write, in one program."""
    b, slots = request.b, drafts.slots
    home = b.to(tl.int64)  # of the sums of the replaced slot, or of slot 0
    if EVERY_ROW:
        home = home * slots
    accepted = end.failed
    if RULE == BLOCK:
        accepted = accepted_level(target, drafts, drawn, found, sums, request, end, home, tiles)
    rejected = accepted < end.slot
    emits = rejected | (end.status == OK) | (end.status == BAD_DRAFT)
    token = tl.full([], -1, tl.int32)
    if emits:
        replaced = home
        if EVERY_ROW:
            replaced = home + accepted
        token = final_token(
            target, drafts, drawn, found, scratch, sums, request, end, accepted, replaced, tiles,
            RULE, TILE, LISTED,
        )  # fmt: skip
    emitted = accepted + emits.to(tl.int32)
    write_tokens(
        verdict, target, drafts, drawn, found, request, accepted, emitted, token, RAW, RULE
    )
    last = tl.maximum(accepted - 1, 0)
    last = tl.load(drafts.tokens + b.to(tl.int64) * slots + last, mask=accepted > 0, other=0)
    last = tl.where(emits, token.to(tl.int64), last)
    status = end.status
    decided = end.slot
    if RULE != BLOCK:
        foreign = code(found, request, accepted, FOREIGN) != 0
        status = tl.where(rejected, tl.where(foreign, BAD_DRAFT, OK), status)
        decided = accepted + rejected.to(tl.int32)
    write_accept_prob(verdict, found, request, slots, decided, RULE)
    if verdict.overlap is not None:
        write_overlap(verdict, target, drafts, drawn, found, sums, request, end, home, tiles, RULE)
    write_counts(verdict, b, accepted, emitted, last, status)
    tl.store(position + request.r, tl.load(position + request.r) + emitted)
    tl.store(found.decided + b, 0)


@triton.jit(
    do_not_specialize=[
        "rows_given", "mask_batch_stride", "mask_row_stride", "words", "draft_rows", "target_ids",
        "state_rows", "batch", "slots", "splits", "levels", "chunks",
    ]
)  # fmt: skip
def verify_end_kernel(
    logits, row_start, mask, batch_stride: tl.int64, row_stride: tl.int64, vocab: tl.int64,
    rows_given: tl.int64, mask_batch_stride: tl.int64, mask_row_stride: tl.int64, words: tl.int64,
    draft_tokens, stats, draft_logits, logits_row, t2d, draft_batch_stride: tl.int64,
    draft_row_stride: tl.int64, draft_rows: tl.int64, draft_vocab: tl.int64, target_ids: tl.int64,
    sampling, rng, length, live, rows, state_rows: tl.int64, found, scratch, tickets,
    batch: tl.int32, slots: tl.int64, splits: tl.int32,
    residual, shared, chunks: tl.int64, verdict, levels: tl.int32,
    RULE: tl.constexpr, RAW: tl.constexpr, EVERY_ROW: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    split = (tl.program_id(0) % splits).to(tl.int32)
    level = ((tl.program_id(0) // splits) % levels).to(tl.int32)
    b = (tl.program_id(0) // splits // levels).to(tl.int32)
    target = Target(
        logits, row_start, mask, batch_stride, row_stride, vocab, rows_given,
        mask_batch_stride, mask_row_stride, words,
    )  # fmt: skip
    drafts = Drafts(
        draft_tokens, stats, draft_logits, logits_row, t2d, slots.to(tl.int32),
        draft_batch_stride, draft_row_stride, draft_rows, draft_vocab.to(tl.int32),
        target_ids.to(tl.int32),
    )  # fmt: skip
    r, known = state_row(rows, b, state_rows)
    first = b.to(tl.int64) * (drafts.slots + 1)
    if known & tl.load(live + b):
        seed, round_ = tl.load(rng.seed + r), tl.load(rng.round + b)
        drafted = request_length(length, b, drafts.slots)
        request = Request(b, r, drafted, first, seed, round_)
        tiles = tl.cdiv(vocab, TILE).to(tl.int32)
        drawn = row_sampling(sampling, r, vocab, RULE)
        end = find_end(found, request)
        sums = Sums(residual, shared, chunks)
        home = b.to(tl.int64) * levels + level
        if EVERY_ROW == 0:
            level = end.failed
        if drafts.logits is not None:
            if level < end.slot:
                sum_pair(
                    target, drafts, drawn, found, scratch, sums, request, end, level, home,
                    split, splits, tiles, RULE, TILE, LISTED,
                )  # fmt: skip
        if arrives_last(tickets + b, splits * levels):
            end_request(
                verdict, target, drafts, drawn, found, scratch, sums, request, end, rng.position,
                tiles, RULE, RAW, EVERY_ROW, TILE, LISTED,
            )  # fmt: skip
    elif (split == 0) & (level == 0):
        write_dead(verdict, b, drafts.slots)
