"""The gumbel rule (drafter-invariant sampling, 2408.07978): the argmax of z/T + G.

Noise belongs to a target id at a position, so that a draft and its target share it.  Inside a tile
scores are float32, their error far below what contract 7 calls a near tie; the winner's is then
computed exactly, so that tiles and listed groups compare as float64, the lowest id on ties.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.rng import gumbel_noise, gumbel_words
from .row import scores_of, target_ids, winners_of

NOBODY = tl.constexpr(2**31 - 1)
ALL_BITS = tl.constexpr(0xFFFFFFFF)


class Noise(NamedTuple):
    """Where the noise of a row is."""

    seed: object  # i64
    position: object  # i64


@triton.jit
def fast_noise(word):
    """G in float32 with absolute error below 1e-5; -ln(1 - w) by its series where w is small."""
    w = (word.to(tl.float32) + 0.5) * 2.0**-32
    other = word ^ tl.full([], ALL_BITS, tl.uint32)
    rest = tl.maximum((other.to(tl.float32) + 0.5) * 2.0**-32, 2.0**-24)
    series = 1 / 9 + w * (1 / 10)
    for i in tl.static_range(8):
        series = 1 / (8 - i) + w * series
    return -tl.log(tl.where(w < 0.25, w * series, -tl.log(rest)))


@triton.jit
def own_words(noise, ids):
    """The word of each target id by itself, any shape."""
    words = gumbel_words(noise.seed, noise.position, (ids >> 2).to(tl.uint32))
    low = tl.where((ids & 1) == 0, words[0], words[1])
    high = tl.where((ids & 1) == 0, words[2], words[3])
    return tl.where((ids & 2) == 0, low, high)


@triton.jit
def tile_words(noise, tile, TILE: tl.constexpr):
    """The words of ids tile * TILE .., each Philox block once for its four ids."""
    block = tile * (TILE // 4) + tl.arange(0, TILE // 4)
    w = gumbel_words(noise.seed, noise.position, block.to(tl.uint32))
    return tl.reshape(tl.join(tl.join(w[0], w[2]), tl.join(w[1], w[3])), [TILE])


@triton.jit
def best_of(z, ids, words, rate):
    """Lowest id of the best float32 score, flattened; NOBODY where every logit is -inf."""
    score = z * rate + fast_noise(words)
    score = tl.where(z > float("-inf"), score, float("-inf"))
    best = tl.max(score, 0)
    return tl.min(tl.where((score == best) & (z > float("-inf")), ids, NOBODY), 0)


@triton.jit
def exact_score(row, sampling, noise, column, z):
    """float64 score of one column whose logit is ``z``."""
    word = own_words(noise, target_ids(row, column))
    return z.to(tl.float64) * sampling.inv_temperature + gumbel_noise(word)


@triton.jit
def tile_winner(row, sampling, scratch, noise, z, tile, TILE: tl.constexpr):
    """Best column of a tile and its score; filtered rows wait for their cutoff."""
    if (sampling.filtered | sampling.one_hot) == 0:
        ids = tile * TILE + tl.arange(0, TILE)
        if row.d2t is not None:
            words = own_words(noise, target_ids(row, ids))
        else:
            words = tile_words(noise, tile, TILE)
        winner = best_of(z, ids, words, sampling.inv_temperature.to(tl.float32))
        logit = tl.sum(tl.where(ids == winner, z, 0.0), 0)
        score = exact_score(row, sampling, noise, tl.minimum(winner, row.vocab - 1), logit)
        tl.store(scores_of(scratch) + tile, tl.where(winner == NOBODY, float("-inf"), score))
        tl.store(winners_of(scratch) + tile, winner)


@triton.jit
def row_winner(scratch, tiles, BLOCK: tl.constexpr):
    """The best column of an unfiltered row, from its tiles."""
    best = tl.full([], float("-inf"), tl.float64)
    column = tl.full([], NOBODY, tl.int32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        known = tile < tiles
        score = tl.load(scores_of(scratch) + tile, known, float("-inf"), cache_modifier=".cg")
        winner = tl.load(winners_of(scratch) + tile, known, NOBODY, cache_modifier=".cg")
        here = tl.max(score, 0)
        lowest = tl.min(tl.where(score == here, winner, NOBODY), 0)
        column = tl.where(here > best, lowest, column)  # earlier tiles have lower columns
        best = tl.maximum(here, best)
    return column
