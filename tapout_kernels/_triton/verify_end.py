"""verify, second launch: which drafts are accepted, what is emitted after them, every output.

Programs share the sums over two distributions that a replacement, block or overlap needs; the last
of a request to arrive decides, draws and writes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .core.accept import block_accepts, block_may_accept, one_hot_residual
from .core.rng import ACCEPT, RESIDUAL
from .core.sampling import BLOCK, GREEDY, GUMBEL, row_sampling
from .core.stats import BAD_DRAFT, OK, base_of, weight
from .drafts import Drafts, draft_at, draft_row, p_draft_of
from .draw import Masses, total_mass
from .finish import arrives_last
from .law import draw, tile_masses
from .residual import Pair, draw_excess
from .row import GROUP, RECORD, Row, RowScratch, known_row, load_row, records_of
from .search import Peak, keep_from
from .verify_outputs import write_accept_prob, write_counts, write_dead, write_tokens
from .verify_request import (
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
    P_TARGET,
    TOKEN_ID,
    Target,
    request_length,
    target_at,
)

# ---- decisions ----------------------------------------------------------------------------------


@triton.jit
def sum_of(masses, home, sums, drawn, count, tiles):
    """What ``sum_pair`` left of one level."""
    chunks = tl.where(drawn.filtered, count, tiles)
    return total_mass(Masses(masses + home * sums.chunks, chunks, None, None), False)


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
def take_out(row, drawn, own, law, tiles, column, TILE: tl.constexpr, LISTED: tl.constexpr):
    """Takes a column out of the masses of its row; what is left."""
    left = tl.full([], 1.0, tl.float64)
    if drawn.filtered:
        if own.arrays.groups is not None:
            peak = Peak(law.maximum.to(tl.float32), drawn.inv_temperature.to(tl.float32))
            left = keep_from(row, own, law.count, law.cutoff, peak, column, LISTED)
    else:
        home = column // TILE
        ids = home * TILE + tl.arange(0, TILE)
        at = records_of(own) + home * RECORD
        w = weight(load_row(row, ids), base_of(tl.load(at)), drawn.inv_temperature.to(tl.float32))
        tl.store(at + 1, tl.sum(tl.where(ids == column, 0.0, w), 0))
        tl.debug_barrier()
        left = total_mass(tile_masses(drawn, own, law, tiles), True)
    return left


@triton.jit
def replacement(
    row, drafts, drawn, own, law, sums, found, request, draft, level, home, tiles,
    RULE: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """The token emitted in place of a rejected draft; without residual mass, one of p_target."""
    uniform = noise_at(request, level, RESIDUAL)
    token, without = tl.full([], -1, tl.int32), tl.full([], -1, tl.int32)
    mass = law.kept
    if drawn.one_hot == 0:
        if draft.one_hot:
            if draft.foreign == 0:
                without = draft.token.to(tl.int32)
                mass = take_out(row, drawn, own, law, tiles, without, TILE, LISTED)
        elif drafts.logits is not None:
            kept = draft_row(drafts, request.b, level, draft.token)
            w = weight_of(found, request, level, RULE)
            pair = Pair(row, law, drawn.inv_temperature.to(tl.float32), kept, w)
            masses = sums.residual + home * sums.chunks
            token = draw_excess(pair, drafts, own, masses, tiles, uniform, drawn.filtered, TILE)
    if token < 0:
        token = draw(row, drawn, own, law, tiles, uniform * mass, without, TILE)
    return tl.where(token < 0, without, token)


@triton.jit
def final_token(
    target, drafts, drawn, found, scratch, sums, request, end, accepted, home, tiles,
    RULE: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """What follows the accepted drafts."""
    token = code(found, request, accepted, TOKEN_ID)
    if RULE != GUMBEL and RULE != GREEDY:
        start, mask_at, _ = target_at(target, request.b, accepted)
        row = Row(
            target.logits + start, target.vocab.to(tl.int32), target.mask, mask_at,
            target.words.to(tl.int32), None,
        )  # fmt: skip
        at = request.first + accepted
        own = RowScratch(scratch, at * tiles, at * tiles * (TILE // GROUP))
        law = law_of(found, request, accepted)
        if accepted < end.slot:
            draft = draft_at(drafts, request.b, accepted, row.vocab, RULE)
            token = replacement(
                row, drafts, drawn, own, law, sums, found, request, draft, accepted, home, tiles,
                RULE, TILE, LISTED,
            )  # fmt: skip
        else:
            uniform = noise_at(request, accepted, RESIDUAL)
            token = draw(row, drawn, own, law, tiles, uniform * law.kept, -1, TILE)
    return token


# ---- the request ---------------------------------------------------------------------------------


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
    r, known = known_row(rows, b, state_rows)
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
