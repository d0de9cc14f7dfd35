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
from .draw import NONE, pick_chunk, pick_id
from .gumbel import NOBODY, best_of, exact_score, own_words, row_winner
from .row import GROUP, RECORD, load_row, target_ids
from .search import Peak, filter_row, listed_logits

BLOCK = tl.constexpr(64)  # tiles merged at once


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


@triton.jit
def merge_extremes(scratch, tiles, LEAST: tl.constexpr):
    """Maximum and, where it was recorded, smallest finite logit of the row (else -inf)."""
    maximum = tl.full([], float("-inf"), tl.float32)
    least = tl.full([], float("inf"), tl.float32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        at, known = scratch.records + tile * RECORD, tile < tiles
        high = tl.load(at, mask=known, other=float("-inf"), cache_modifier=".cg")
        maximum = tl.maximum(maximum, tl.max(high, 0))
        if LEAST:
            low = tl.load(at + 3, mask=known, other=float("inf"), cache_modifier=".cg")
            least = tl.minimum(least, tl.min(low, 0))
    if LEAST == 0:
        least = tl.full([], float("-inf"), tl.float32)
    return maximum, least


@triton.jit
def merge_sums(scratch, tiles, base, inv_temperature, STATISTICS: tl.constexpr):
    """Sum and dev of the row; every record's sum becomes its tile's share of the row's."""
    total, dev = tl.full([], 0.0, tl.float64), tl.full([], 0.0, tl.float64)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        at, known = scratch.records + tile * RECORD, tile < tiles
        high = tl.load(at, mask=known, other=float("-inf"), cache_modifier=".cg")
        part = tl.load(at + 1, mask=known, other=0.0, cache_modifier=".cg").to(tl.float64)
        shift = (high.to(tl.float64) - base) * inv_temperature
        factor = tl.exp(shift)
        mass = factor * part
        total += tl.sum(mass, 0)
        if STATISTICS:
            own = tl.load(at + 2, mask=known, other=0.0, cache_modifier=".cg").to(tl.float64)
            dev += tl.sum(tl.where(factor > 0, factor * (own + shift * part), 0.0), 0)
        tl.store(at + 1, mass.to(tl.float32), mask=known)
    tl.debug_barrier()
    return total, dev


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
def locate_top(row, scratch, tiles, maximum, TILE: tl.constexpr):
    """Where the maximum is (the lowest id of a tie), and the second largest logit."""
    home = tl.full([], NONE, tl.int32)
    second = tl.full([], float("-inf"), tl.float32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        high = tl.load(
            scratch.records + tile * RECORD, tile < tiles, float("-inf"), cache_modifier=".cg"
        )
        home = tl.minimum(home, tl.min(tl.where(high == maximum, tile, NONE), 0))
        second = tl.maximum(second, tl.max(tl.where(tile == home, float("-inf"), high), 0))
    ids = home * TILE + tl.arange(0, TILE)
    z = load_row(row, ids)
    argmax = tl.min(tl.where(z == maximum, ids, NONE), 0)
    second = tl.maximum(second, tl.max(tl.where(ids == argmax, float("-inf"), z), 0))
    return argmax, second


@triton.jit
def finish_row(
    row, sampling, scratch, tiles,
    STATISTICS: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Merge the tiles and find the cutoff, in one program, after all of the row was read."""
    maximum, least = merge_extremes(scratch, tiles, STATISTICS or scratch.groups is not None)
    base = base_of(maximum).to(tl.float64)
    total, dev = merge_sums(scratch, tiles, base, sampling.inv_temperature, STATISTICS)
    status = row_status(maximum, total, sampling.valid)
    cutoff, kept, count = least, total, tl.full([], 0, tl.int32)
    argmax, second = tl.full([], 0, tl.int32), tl.full([], float("-inf"), tl.float32)
    if status == OK:
        if sampling.one_hot | STATISTICS:
            argmax, second = locate_top(row, scratch, tiles, maximum, TILE)
        if sampling.one_hot:
            cutoff, kept = maximum, tl.full([], 1.0, tl.float64)
        if scratch.groups is not None:
            if sampling.filtered:
                peak = Peak(maximum, sampling.inv_temperature.to(tl.float32))
                found = filter_row(
                    row, sampling, scratch, tl.cdiv(row.vocab, GROUP), least, total, peak,
                    PRECISION, PIVOTS, LISTED,
                )  # fmt: skip
                cutoff, kept, count = found.cutoff, found.kept, found.count
    return Law(status, base, total, dev, cutoff, kept, count, argmax, second)


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
    high = tl.load(scratch.records + index * RECORD, cache_modifier=".cg")
    factor = tl.exp((high.to(tl.float64) - law.maximum) * sampling.inv_temperature)
    w = weight(load_row(row, ids), base_of(high), sampling.inv_temperature.to(tl.float32))
    return ids, tl.where(ids == without, 0.0, w.to(tl.float64) * factor)


@triton.jit
def group_weights(row, sampling, scratch, law, index, without):
    """Ids and weights of one listed group of a filtered row; that of ``without`` is 0."""
    ids = tl.load(scratch.listed + index) * GROUP + tl.arange(0, GROUP)
    z = load_row(row, ids)
    rate = sampling.inv_temperature.to(tl.float32)
    w = weight(z, law.maximum.to(tl.float32), rate)
    return ids, tl.where((z >= law.cutoff) & (ids != without), w, 0.0)


@triton.jit
def draw_from_tile(row, sampling, scratch, law, tiles, uniform, without, TILE: tl.constexpr):
    chunk = pick_chunk(scratch.records + 1, tiles, uniform, RECORD, BLOCK)
    ids, w = tile_weights(row, sampling, scratch, law, chunk.index, without, TILE)
    return pick_id(chunk, ids, w)


@triton.jit
def draw_from_group(row, sampling, scratch, law, uniform, without):
    chunk = pick_chunk(scratch.masses, law.count, uniform, 1, BLOCK)
    ids, w = group_weights(row, sampling, scratch, law, chunk.index, without)
    return pick_id(chunk, ids, w)


@triton.jit
def draw(row, sampling, scratch, law, tiles, uniform, without, TILE: tl.constexpr):
    """A column of the processed distribution, by its uniform; -1 where no mass is left.

    ``without``: a column whose mass was taken out of the masses in scratch, or -1.
    """
    column = law.argmax
    if sampling.filtered:
        if scratch.groups is not None:
            column = draw_from_group(row, sampling, scratch, law, uniform, without)
    elif sampling.one_hot == 0:
        column = draw_from_tile(row, sampling, scratch, law, tiles, uniform, without, TILE)
    return column


@triton.jit
def draw_gumbel(row, sampling, scratch, law, tiles, noise, LISTED: tl.constexpr):
    """The column that wins under the gumbel rule."""
    column = law.argmax
    if sampling.filtered:
        if scratch.groups is not None:
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
