"""One request of verify as its second launch sees it: where the draft ends, and sums over it."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.accept import block_may_accept, block_weight
from .core.rng import ACCEPT, uniform_at
from .core.sampling import BLOCK, GREEDY, GUMBEL
from .core.stats import BAD_DRAFT, OK
from .drafts import draft_at, draft_row
from .draw import NONE
from .law import Law
from .residual import Pair, pair_listed, pair_tiles
from .row import GROUP, Row, RowScratch
from .verify_rows import (
    BAD,
    COUNT,
    CUTOFF,
    FOREIGN,
    GOOD,
    KEPT,
    MAXIMUM,
    NUM_CODES,
    NUM_NUMBERS,
    P_DRAFT,
    P_TARGET,
    STATUS,
    TOKEN_ID,
    target_at,
)

LANES = tl.constexpr(32)  # slots looked at together


class Request(NamedTuple):
    b: object  # i32
    r: object  # i64 row of state
    length: object  # i32
    first: object  # i64 row of ``found`` of slot 0
    seed: object
    round: object


class End(NamedTuple):
    """No slot from ``slot`` on can be accepted, whatever the noise."""

    slot: object
    status: object
    failed: object  # the first slot that is not accepted, but for `block`


class Sums(NamedTuple):
    """[rows, chunks] f32 each."""

    residual: object
    shared: object  # of overlap, or None
    chunks: object  # i64 between rows


@triton.jit
def code(found, request, slot, column):
    return tl.load(found.codes + (request.first + slot) * NUM_CODES + column)


@triton.jit
def number(found, request, slot, column):
    return tl.load(found.numbers + (request.first + slot) * NUM_NUMBERS + column)


@triton.jit
def find_end(found, request):
    """Rows that were skipped hold anything, but lie behind one that fails."""
    end, failed = tl.full([], NONE, tl.int32), tl.full([], NONE, tl.int32)
    for first in range(0, request.length + 1, LANES):
        slot = first + tl.arange(0, LANES)
        known = slot <= request.length
        at = found.codes + (request.first + slot) * NUM_CODES
        stops = (tl.load(at + STATUS, known, OK) != OK) | (tl.load(at + BAD, known, 0) != 0)
        stops = known & (stops | (slot == request.length))
        foreign = known & (tl.load(at + FOREIGN, known, 0) != 0)
        good = tl.load(at + GOOD, known, 0) != 0
        end = tl.minimum(end, tl.min(tl.where(stops, slot, NONE), 0))
        end = tl.minimum(end, tl.min(tl.where(foreign, slot + 1, NONE), 0))
        failed = tl.minimum(failed, tl.min(tl.where(known & (good == 0), slot, NONE), 0))
    status = code(found, request, end, STATUS)
    short = (status == OK) & (end < request.length)
    after_foreign = end > 0
    after_foreign = after_foreign & (code(found, request, tl.maximum(end - 1, 0), FOREIGN) != 0)
    status = tl.where(short | after_foreign, BAD_DRAFT, status)
    return End(end, status, tl.minimum(failed, end))


@triton.jit
def law_of(found, request, slot):
    zero = tl.full([], 0.0, tl.float64)
    return Law(
        code(found, request, slot, STATUS), number(found, request, slot, MAXIMUM), zero, zero,
        number(found, request, slot, CUTOFF).to(tl.float32), number(found, request, slot, KEPT),
        code(found, request, slot, COUNT), code(found, request, slot, TOKEN_ID),
        tl.full([], 0.0, tl.float32),
    )  # fmt: skip


@triton.jit
def noise_at(request, slot, domain: tl.constexpr):
    return uniform_at(request.seed, slot.to(tl.int64), request.round, domain)


# ---- sums ---------------------------------------------------------------------------------------


@triton.jit
def weight_of(found, request, level, RULE: tl.constexpr):
    """w of a level; 1 but for `block`."""
    w = tl.full([], 1.0, tl.float64)
    if RULE == BLOCK:
        for i in range(level):
            p_target = number(found, request, i, P_TARGET)
            w = block_weight(w, p_target, number(found, request, i, P_DRAFT))
    return w


@triton.jit
def needs_residual(found, request, end, level, w, RULE: tl.constexpr):
    """Whether the sum of a level below the end may decide or replace."""
    if RULE == BLOCK:
        at = tl.maximum(end.slot - 1, 0)
        whole = weight_of(found, request, end.slot, RULE)
        needed = block_may_accept(noise_at(request, at, ACCEPT), whole) == 0
        own = noise_at(request, tl.maximum(level - 1, 0), ACCEPT)
        needed = needed & ((level == 0) | block_may_accept(own, w))
    else:
        needed = level == end.failed
    return needed & (RULE != GUMBEL) & (RULE != GREEDY)


@triton.jit
def sum_pair(
    target, drafts, drawn, found, scratch, sums, request, end, level, home, split, splits, tiles,
    RULE: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """This split's share of the sums of one level, if they are needed and not plain numbers."""
    w = weight_of(found, request, level, RULE)
    needed = needs_residual(found, request, end, level, w, RULE) | (sums.shared is not None)
    draft = draft_at(drafts, request.b, level, target.vocab, RULE)
    full = (draft.one_hot == 0) & (draft.p_draft > 0.0) & (drawn.one_hot == 0)
    if needed & full:
        start, mask_at, _ = target_at(target, request.b, level)
        row = Row(
            target.logits + start, target.vocab.to(tl.int32), target.mask, mask_at,
            target.words.to(tl.int32), None,
        )  # fmt: skip
        law = law_of(found, request, level)
        kept = draft_row(drafts, request.b, level, draft.token)
        pair = Pair(row, law, drawn.inv_temperature.to(tl.float32), kept, w)
        residual, shared = sums.residual + home * sums.chunks, sums.shared
        if shared is not None:
            shared += home * sums.chunks
        if drawn.filtered:
            if scratch.groups is not None:
                if split == 0:
                    at = request.first + level
                    own = RowScratch(scratch, at * tiles, at * tiles * (TILE // GROUP))
                    pair_listed(pair, drafts, own, residual, shared, LISTED)
        else:
            each = tl.cdiv(tiles, splits)
            last = tl.minimum(split * each + each, tiles)
            pair_tiles(pair, drafts, residual, shared, split * each, last, TILE)
