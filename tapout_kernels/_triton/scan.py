"""The one pass over a row.

It leaves a record of every tile, and the maximum of every group of ids where filters will search
the row.  Which program reads which tile changes nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .core.sampling import GUMBEL
from .core.stats import base_of, weight
from .gumbel import tile_winner
from .row import GROUP, RECORD, Row, groups_of, load_row, records_of


@triton.jit
def keep_raw(raw, z, tile):
    """Maximum and sum of a tile as it came, at temperature 1: for `raw` log-probabilities."""
    maximum = tl.max(z, 0)
    tl.store(raw + tile * 2, maximum)
    tl.store(raw + tile * 2 + 1, tl.sum(weight(z, base_of(maximum), 1.0), 0))


@triton.jit
def record_tile(scratch, z, tile, rate, STATISTICS: tl.constexpr):
    """``rate`` = 1/T; dev and the smallest logit are written where they will be asked for."""
    maximum = tl.max(z, 0)
    x = (z - base_of(maximum)) * rate
    w = tl.exp(x)
    at = records_of(scratch) + tile * RECORD
    tl.store(at, maximum)
    tl.store(at + 1, tl.sum(w, 0))
    if STATISTICS:
        tl.store(at + 2, tl.sum(tl.where(w > 0, x * w, 0.0), 0))
    if STATISTICS or scratch.arrays.groups is not None:  # where it may become a cutoff
        tl.store(at + 3, tl.min(tl.where(z > float("-inf"), z, float("inf")), 0))


@triton.jit
def scan_row(
    row, sampling, scratch, noise, kept, raw, split, splits, tiles,
    RULE: tl.constexpr, STATISTICS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Tiles of one split of a row; ``kept`` takes a copy of the masked logits, if given."""
    rate = sampling.inv_temperature.to(tl.float32)
    each = tl.cdiv(tiles, splits)
    first = split * each
    for tile in range(first, tl.minimum(first + each, tiles)):
        ids = tile * TILE + tl.arange(0, TILE)
        z = load_row(row, ids)
        if kept is not None:
            tl.store(kept + ids, z.to(kept.dtype.element_ty), mask=ids < row.vocab)
        if raw is not None:
            plain = Row(row.logits, row.vocab, None, row.mask_at, row.words, None)
            keep_raw(raw, load_row(plain, ids), tile)
        record_tile(scratch, z, tile, rate, STATISTICS)
        if scratch.arrays.groups is not None:
            maxima = tl.max(tl.reshape(z, [TILE // GROUP, GROUP]), 1)
            group = tile * (TILE // GROUP) + tl.arange(0, TILE // GROUP)
            tl.store(groups_of(scratch) + group, maxima)
        if RULE == GUMBEL:
            tile_winner(row, sampling, scratch, noise, z, tile, TILE)
