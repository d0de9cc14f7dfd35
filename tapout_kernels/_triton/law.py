"""The processed distribution of a row from what its pass left, and what is asked of it."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.stats import (
    ACCEPT_ESTIMATE,
    CUTOFF,
    ENTROPY,
    LSE,
    NUM_STATS,
    OK,
    TEMPERATURE,
    TOKEN_LOGPROB,
    TOP1_PROB,
    TOP2_PROB,
    base_of,
    entropy,
    log_probability,
    row_status,
    weight,
)
from .draw import BLOCK, NONE, Masses, pick_chunk, pick_id
from .gumbel import NOBODY, best_of, exact_score, own_words, row_winner
from .row import GROUP, RECORD, listed_of, load_row, masses_of, records_of, target_ids
from .search import Peak, filter_row, listed_logits


class Law(NamedTuple):
    status: object  # i32
    maximum: object  # f64
    total: object  # f64 sum before the filters, relative to the maximum
    dev: object  # f64
    cutoff: object  # f32: z >= cutoff is kept
    kept: object  # f64 sum of what is kept
    count: object  # i32 listed groups of a filtered row
    argmax: object  # i32, of a one-hot row and where statistics are asked for
    second: object  # f32, where statistics are asked for


class Merged(NamedTuple):
    """What the records of a row's tiles say together."""

    maximum: object  # f32
    least: object  # f32 smallest finite logit where it was recorded, else -inf
    total: object  # f64 relative to the maximum, and the next
    dev: object
    home: object  # i32 the first tile that has the maximum
    second: object  # f32 largest maximum of the other tiles


@triton.jit
def merge_tiles(scratch, tiles, inv_temperature, LEAST: tl.constexpr, STATISTICS: tl.constexpr):
    """One look at the records, BLOCK at a time."""
    maximum, second = tl.full([], float("-inf"), tl.float32), tl.full([], float("-inf"), tl.float32)
    least = tl.full([], float("inf") if LEAST else float("-inf"), tl.float32)
    total, dev = tl.full([], 0.0, tl.float64), tl.full([], 0.0, tl.float64)
    home = tl.full([], NONE, tl.int32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        at, known = records_of(scratch) + tile * RECORD, tile < tiles
        high = tl.load(at, mask=known, other=float("-inf"), cache_modifier=".cg")
        part = tl.load(at + 1, mask=known, other=0.0, cache_modifier=".cg").to(tl.float64)
        top = tl.maximum(maximum, tl.max(high, 0))
        moved = top > maximum
        home = tl.where(moved, tl.min(tl.where(high == top, tile, NONE), 0), home)
        second = tl.maximum(second, tl.max(tl.where(tile == home, float("-inf"), high), 0))
        second = tl.maximum(second, tl.where(moved, maximum, float("-inf")))
        base = base_of(top).to(tl.float64)
        before, shift = (maximum - base) * inv_temperature, (high - base) * inv_temperature
        rest, factor = tl.exp(before), tl.exp(shift)
        if STATISTICS:
            own = tl.load(at + 2, mask=known, other=0.0, cache_modifier=".cg").to(tl.float64)
            dev = tl.where(rest > 0, rest * (dev + before * total), 0.0)
            dev += tl.sum(tl.where(factor > 0, factor * (own + shift * part), 0.0), 0)
        if LEAST:
            low = tl.load(at + 3, mask=known, other=float("inf"), cache_modifier=".cg")
            least = tl.minimum(least, tl.min(low, 0))
        total = rest * total + tl.sum(factor * part, 0)
        maximum = top
    return Merged(maximum, least, total, dev, home, second)


@triton.jit
def merge_raw(raw, tiles):
    """ln sum e^z of the row as it came, from what ``keep_raw`` left of its tiles."""
    maximum = tl.full([], float("-inf"), tl.float32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        high = tl.load(raw + tile * 2, tile < tiles, float("-inf"), cache_modifier=".cg")
        maximum = tl.maximum(maximum, tl.max(high, 0))
    base = base_of(maximum).to(tl.float64)
    total = tl.full([], 0.0, tl.float64)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        high = tl.load(raw + tile * 2, tile < tiles, float("-inf"), cache_modifier=".cg")
        part = tl.load(raw + tile * 2 + 1, tile < tiles, 0.0, cache_modifier=".cg")
        total += tl.sum(tl.exp(high.to(tl.float64) - base) * part.to(tl.float64), 0)
    return base + tl.log(total)


@triton.jit
def locate_top(row, merged, TILE: tl.constexpr):
    """Where the maximum is (the lowest id of a tie), and the second largest logit."""
    ids = merged.home * TILE + tl.arange(0, TILE)
    z = load_row(row, ids)
    argmax = tl.min(tl.where(z == merged.maximum, ids, NONE), 0)
    rest = tl.max(tl.where(ids == argmax, float("-inf"), z), 0)
    return argmax, tl.maximum(merged.second, rest)


@triton.jit
def finish_row(
    row, sampling, scratch, tiles,
    STATISTICS: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Merge the tiles and find the cutoff, in one program, after all of the row was read."""
    merged = merge_tiles(
        scratch, tiles, sampling.inv_temperature, STATISTICS or scratch.arrays.groups is not None,
        STATISTICS,
    )  # fmt: skip
    maximum, total = merged.maximum, merged.total
    status = row_status(maximum, total, sampling.valid)
    cutoff, kept, count = merged.least, total, tl.full([], 0, tl.int32)
    argmax, second = tl.full([], 0, tl.int32), tl.full([], float("-inf"), tl.float32)
    if status == OK:
        if sampling.one_hot | STATISTICS:
            argmax, second = locate_top(row, merged, TILE)
        if sampling.one_hot:
            cutoff, kept = maximum, tl.full([], 1.0, tl.float64)
        if scratch.arrays.groups is not None:
            if sampling.filtered:
                peak = Peak(maximum, sampling.inv_temperature.to(tl.float32))
                found = filter_row(
                    row, sampling, scratch, tl.cdiv(row.vocab, GROUP), merged.least, total, peak,
                    PRECISION, PIVOTS, LISTED,
                )  # fmt: skip
                cutoff, kept, count = found.cutoff, found.kept, found.count
    base = base_of(maximum).to(tl.float64)
    return Law(status, base, total, merged.dev, cutoff, kept, count, argmax, second)


@triton.jit
def listed_winner(row, sampling, scratch, law, noise, LISTED: tl.constexpr):
    """The best column of a filtered row under the gumbel rule."""
    rate = sampling.inv_temperature.to(tl.float32)
    best = tl.full([], float("-inf"), tl.float64)
    column = tl.full([], NOBODY, tl.int32)
    for first in range(0, law.count, LISTED):
        ids, z = listed_logits(row, scratch, first, law.count, LISTED)
        ids = tl.reshape(ids, [LISTED * GROUP])
        z = tl.reshape(tl.where(z >= law.cutoff, z, float("-inf")), [LISTED * GROUP])
        winner = best_of(z, ids, own_words(noise, target_ids(row, ids)), rate)
        logit = tl.sum(tl.where(ids == winner, z, 0.0), 0)
        score = exact_score(row, sampling, noise, tl.minimum(winner, row.vocab - 1), logit)
        better = (winner != NOBODY) & (score > best)
        column, best = tl.where(better, winner, column), tl.where(better, score, best)
    return column


@triton.jit
def tile_weights(row, sampling, scratch, law, index, without, TILE: tl.constexpr):
    """Ids and float64 weights of one tile of an unfiltered row; that of ``without`` is 0."""
    ids = index * TILE + tl.arange(0, TILE)
    high = tl.load(records_of(scratch) + index * RECORD, cache_modifier=".cg")
    factor = tl.exp((high.to(tl.float64) - law.maximum) * sampling.inv_temperature)
    w = weight(load_row(row, ids), base_of(high), sampling.inv_temperature.to(tl.float32))
    return ids, tl.where(ids == without, 0.0, w.to(tl.float64) * factor)


@triton.jit
def group_weights(row, sampling, scratch, law, index, without):
    """Ids and weights of one listed group of a filtered row; that of ``without`` is 0."""
    ids = tl.load(listed_of(scratch) + index) * GROUP + tl.arange(0, GROUP)
    z = load_row(row, ids)
    rate = sampling.inv_temperature.to(tl.float32)
    w = weight(z, law.maximum.to(tl.float32), rate)
    return ids, tl.where((z >= law.cutoff) & (ids != without), w, 0.0)


@triton.jit
def tile_masses(sampling, scratch, law, tiles):
    return Masses(records_of(scratch), tiles, law.maximum, sampling.inv_temperature)


@triton.jit
def draw_from_tile(row, sampling, scratch, law, tiles, target, without, TILE: tl.constexpr):
    chunk = pick_chunk(tile_masses(sampling, scratch, law, tiles), target, True)
    ids, w = tile_weights(row, sampling, scratch, law, chunk.index, without, TILE)
    return pick_id(chunk, ids, w)


@triton.jit
def draw_from_group(row, sampling, scratch, law, target, without):
    chunk = pick_chunk(
        Masses(masses_of(scratch), law.count, law.maximum, law.maximum), target, False
    )
    ids, w = group_weights(row, sampling, scratch, law, chunk.index, without)
    return pick_id(chunk, ids, w)


@triton.jit
def draw(row, sampling, scratch, law, tiles, target, without, TILE: tl.constexpr):
    """The column in which the running mass of a row passes ``target``; -1 without any mass.

    ``without``: a column whose mass was taken out of the masses in scratch, or -1.
    """
    column = law.argmax
    if sampling.filtered:
        if scratch.arrays.groups is not None:
            column = draw_from_group(row, sampling, scratch, law, target, without)
    elif sampling.one_hot == 0:
        column = draw_from_tile(row, sampling, scratch, law, tiles, target, without, TILE)
    return column


@triton.jit
def draw_gumbel(row, sampling, scratch, law, tiles, noise, LISTED: tl.constexpr):
    """The column that wins under the gumbel rule."""
    column = law.argmax
    if sampling.filtered:
        if scratch.arrays.groups is not None:
            column = listed_winner(row, sampling, scratch, law, noise, LISTED)
    elif sampling.one_hot == 0:
        column = row_winner(scratch, tiles, BLOCK)
    return column


@triton.jit
def column_log_probability(row, sampling, law, column):
    """ln p of a column; -inf where it is cut or outside the row."""
    inside = (column >= 0) & (column < row.vocab)
    z = load_row(row, tl.where(inside, column, 0).to(tl.int32))
    found = log_probability(z, law.maximum, sampling.inv_temperature, law.kept)
    kept = inside & (z >= law.cutoff) & (z > float("-inf"))
    if sampling.one_hot:
        found, kept = found * 0.0, inside & (column == law.argmax)
    return tl.where(kept, found, float("-inf"))


@triton.jit
def write_stats(stats, sampling, law, token_logprob, estimate):
    """[8] f32; six NaN and two 0 where the row has no law."""
    column = tl.arange(0, NUM_STATS)
    z = law.second.to(tl.float64)
    second = tl.exp((z - law.maximum) * sampling.inv_temperature) / law.total
    lse = law.maximum / sampling.temperature + tl.log(law.kept)
    temperature = tl.where(sampling.one_hot, 0.0, sampling.temperature)
    value = tl.where(column == LSE, lse, 0.0)
    value = tl.where(column == ENTROPY, entropy(law.total, law.dev), value)
    value = tl.where(column == TOP1_PROB, 1.0 / law.total, value)
    value = tl.where(column == TOP2_PROB, second, value)
    value = tl.where(column == TOKEN_LOGPROB, token_logprob, value)
    value = tl.where(column == CUTOFF, law.cutoff.to(tl.float64), value)
    value = tl.where(column == TEMPERATURE, temperature, value)
    value = tl.where(column == ACCEPT_ESTIMATE, estimate.to(tl.float64), value)
    missing = tl.where(column < TEMPERATURE, float("nan"), 0.0)
    tl.store(stats + column, tl.where(law.status == OK, value, missing).to(tl.float32))
