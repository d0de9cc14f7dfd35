"""Two distributions over one row: [w p_target - p_draft]+ and min(p_target, p_draft).

Sums are left chunk by chunk, so that a draw reads one chunk again.  A chunk is a tile; of a
filtered row it is a listed group, outside of which both are 0.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.stats import weight
from .drafts import p_draft_of
from .draw import Masses, pick_chunk, pick_id, total_mass
from .row import GROUP, listed_of, load_row
from .search import listed_logits


class Pair(NamedTuple):
    """One slot: a target row with its law, and the kept row its draft was drawn from."""

    row: object
    law: object
    rate: object  # f32 1/T of the target
    kept: object  # DraftRow
    weight: object  # f64 w, 1 but for `block`


@triton.jit
def pair_terms(pair, drafts, ids, z):
    """float32 p_target and p_draft of some ids."""
    p_target = weight(z, pair.law.maximum.to(tl.float32), pair.rate)
    p_target = tl.where(z >= pair.law.cutoff, p_target, 0.0) * (1.0 / pair.law.kept).to(tl.float32)
    return p_target, p_draft_of(drafts, pair.kept, ids, ids < pair.row.vocab)


@triton.jit
def excess(pair, p_target, p_draft):
    return tl.maximum(p_target * pair.weight.to(tl.float32) - p_draft, 0.0)


@triton.jit
def pair_tiles(pair, drafts, residual, shared, first, last, TILE: tl.constexpr):
    """Sums of tiles [first, last) of an unfiltered row; ``shared`` may be None."""
    for tile in range(first, last):
        ids = tile * TILE + tl.arange(0, TILE)
        p_target, p_draft = pair_terms(pair, drafts, ids, load_row(pair.row, ids))
        tl.store(residual + tile, tl.sum(excess(pair, p_target, p_draft), 0))
        if shared is not None:
            tl.store(shared + tile, tl.sum(tl.minimum(p_target, p_draft), 0))


@triton.jit
def pair_listed(pair, drafts, scratch, residual, shared, LISTED: tl.constexpr):
    """Sums of the listed groups of a filtered row."""
    for first in range(0, pair.law.count, LISTED):
        ids, z = listed_logits(pair.row, scratch, first, pair.law.count, LISTED)
        p_target, p_draft = pair_terms(pair, drafts, ids, z)
        index = first + tl.arange(0, LISTED)
        known = index < pair.law.count
        tl.store(residual + index, tl.sum(excess(pair, p_target, p_draft), 1), mask=known)
        if shared is not None:
            tl.store(shared + index, tl.sum(tl.minimum(p_target, p_draft), 1), mask=known)


@triton.jit
def draw_from_tile(pair, drafts, masses, target, TILE: tl.constexpr):
    chunk = pick_chunk(masses, target, False)
    ids = chunk.index * TILE + tl.arange(0, TILE)
    p_target, p_draft = pair_terms(pair, drafts, ids, load_row(pair.row, ids))
    return pick_id(chunk, ids, excess(pair, p_target, p_draft))


@triton.jit
def draw_from_group(pair, drafts, scratch, masses, target):
    chunk = pick_chunk(masses, target, False)
    ids = tl.load(listed_of(scratch) + chunk.index) * GROUP + tl.arange(0, GROUP)
    p_target, p_draft = pair_terms(pair, drafts, ids, load_row(pair.row, ids))
    return pick_id(chunk, ids, excess(pair, p_target, p_draft))


@triton.jit
def draw_excess(pair, drafts, scratch, residual, tiles, uniform, filtered, TILE: tl.constexpr):
    """A token of the residual by its sums; -1 where there is no mass."""
    column = tl.full([], -1, tl.int32)
    masses = Masses(residual, tl.where(filtered, pair.law.count, tiles), None, None)
    target = uniform * total_mass(masses, False)
    if filtered:
        if scratch.arrays.listed is not None:
            column = draw_from_group(pair, drafts, scratch, masses, target)
    else:
        column = draw_from_tile(pair, drafts, masses, target, TILE)
    return column
