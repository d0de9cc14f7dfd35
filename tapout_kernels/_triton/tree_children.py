"""The children of a row one after the other: its most probable ids, or drawn without replacement.

What was taken is out of the records of the tiles, or the masses of the listed groups; its tokens
stand in the tree, where it is recognised by.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.stats import base_of, weight
from .draw import BLOCK, NONE, Masses, pick_chunk, pick_id, total_mass
from .law import group_weights
from .row import RECORD, load_row, masses_of, records_of, target_ids
from .search import listed_logits


class Taken(NamedTuple):
    """Children of a row that there are."""

    tokens: object  # at the first child's
    count: object  # i32


@triton.jit
def are_taken(row, taken, ids):
    """Which columns, of any shape, are children already."""
    found = ids < 0
    token = target_ids(row, ids)
    for i in range(taken.count):
        found = found | (token == tl.load(taken.tokens + i))
    return found & (ids < row.vocab)


@triton.jit
def tile_left(row, taken, tile, TILE: tl.constexpr):
    ids = tile * TILE + tl.arange(0, TILE)
    z = load_row(row, ids)
    return ids, tl.where(are_taken(row, taken, ids), float("-inf"), z)


@triton.jit
def take_from_tile(row, drawn, own, taken, column, TILE: tl.constexpr):
    """The record of a tile without what was taken from it."""
    tile = column // TILE
    _, z = tile_left(row, taken, tile, TILE)
    maximum = tl.max(z, 0)
    record = records_of(own) + tile * RECORD
    tl.store(record, maximum)
    rate = drawn.inv_temperature.to(tl.float32)
    tl.store(record + 1, tl.sum(weight(z, base_of(maximum), rate), 0))
    tl.debug_barrier()


@triton.jit
def take_from_groups(row, drawn, own, law, taken, LISTED: tl.constexpr):
    """The masses of the listed groups without what was taken."""
    rate = drawn.inv_temperature.to(tl.float32)
    for first in range(0, law.count, LISTED):
        ids, z = listed_logits(row, own, first, law.count, LISTED)
        kept = (z >= law.cutoff) & (are_taken(row, taken, ids) == 0)
        mass = tl.where(kept, weight(z, law.maximum.to(tl.float32), rate), 0.0)
        index = first + tl.arange(0, LISTED)
        tl.store(masses_of(own) + index, tl.sum(mass, 1), mask=index < law.count)
    tl.debug_barrier()


@triton.jit
def take(row, drawn, own, law, taken, column, TILE: tl.constexpr, LISTED: tl.constexpr):
    """``taken`` counts the column already."""
    if drawn.one_hot == 0:
        take_from_tile(row, drawn, own, taken, column, TILE)
        if drawn.filtered:
            if own.arrays.groups is not None:
                take_from_groups(row, drawn, own, law, taken, LISTED)


@triton.jit
def highest_tile(own, tiles):
    """The largest maximum of the records, and the first tile that has it."""
    maximum = tl.full([], float("-inf"), tl.float32)
    home = tl.full([], 0, tl.int32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        at, known = records_of(own) + tile * RECORD, tile < tiles
        high = tl.load(at, mask=known, other=float("-inf"), cache_modifier=".cg")
        top = tl.max(high, 0)
        lowest = tl.min(tl.where(high == top, tile, NONE), 0)
        home = tl.where(top > maximum, lowest, home)
        maximum = tl.maximum(maximum, top)
    return maximum, home


@triton.jit
def best_left(row, own, law, taken, tiles, TILE: tl.constexpr):
    """The most probable column that is left, the lowest of a tie, -1: none is."""
    maximum, home = highest_tile(own, tiles)
    column = tl.full([], -1, tl.int32)
    if (maximum > float("-inf")) & (maximum >= law.cutoff):
        ids, z = tile_left(row, taken, home, TILE)
        column = tl.min(tl.where(z == maximum, ids, NONE), 0)
    return column


@triton.jit
def draw_left_of_groups(row, drawn, own, law, taken, uniform):
    masses = Masses(masses_of(own), law.count, law.maximum, law.maximum)
    chunk = pick_chunk(masses, uniform * total_mass(masses, False), False)
    ids, w = group_weights(row, drawn, own, law, chunk.index, -1)
    return pick_id(chunk, ids, tl.where(are_taken(row, taken, ids), 0.0, w))


@triton.jit
def draw_left_of_tiles(row, drawn, own, taken, tiles, uniform, TILE: tl.constexpr):
    maximum, _ = highest_tile(own, tiles)
    base = base_of(maximum).to(tl.float64)
    masses = Masses(records_of(own), tiles, base, drawn.inv_temperature)
    chunk = pick_chunk(masses, uniform * total_mass(masses, True), True)
    ids, z = tile_left(row, taken, chunk.index, TILE)
    high = tl.load(records_of(own) + chunk.index * RECORD, cache_modifier=".cg")
    factor = tl.exp((high.to(tl.float64) - base) * drawn.inv_temperature)
    w = weight(z, base_of(high), drawn.inv_temperature.to(tl.float32))
    return pick_id(chunk, ids, w.to(tl.float64) * factor)


@triton.jit
def choose(
    row, drawn, own, law, taken, tiles, uniform,
    DRAWN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The next child's column, -1: there is none."""
    column = tl.full([], -1, tl.int32)
    if drawn.one_hot:
        column = tl.where(taken.count == 0, law.argmax, -1)
    elif DRAWN:
        if drawn.filtered:
            if own.arrays.groups is not None:
                column = draw_left_of_groups(row, drawn, own, law, taken, uniform)
        else:
            column = draw_left_of_tiles(row, drawn, own, taken, tiles, uniform, TILE)
    else:
        column = best_left(row, own, law, taken, tiles, TILE)
    return column
