"""What rejected children leave of a row.

One-hot children are taken out of the masses of the target's row, in which its draws look for their
chunk.  Children drawn from one p_draft take all of it away: the sums of [p_target / s - p_draft]+
are left chunk by chunk (``residual``), and those of p_draft without the rejected ones.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .core.stats import base_of, weight
from .drafts import draft_ids, p_draft_of_columns
from .draw import BLOCK, Masses, pick_chunk, pick_id, total_mass
from .law import group_weights, tile_masses, tile_weights
from .row import GROUP, RECORD, listed_of, load_row, masses_of, records_of
from .search import listed_logits
from .tree_links import among, first_child, next_sibling, token_of


@triton.jit
def place_in_list(own, count, group):
    """How many listed groups come before one, and whether it is listed; they rise."""
    before, found = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    for first in range(0, count, BLOCK):
        index = first + tl.arange(0, BLOCK)
        listed = tl.load(listed_of(own) + index, mask=index < count, other=2**31 - 1)
        before += tl.sum((listed < group).to(tl.int32), 0)
        found += tl.sum((listed == group).to(tl.int32), 0)
    return before, found > 0


@triton.jit
def weigh_again(
    tree, row, drawn, own, law, b, at, token, last, TILE: tl.constexpr, LISTED: tl.constexpr
):
    """The mass of the chunk of a token without the children of row ``at`` up to ``last``."""
    rate = drawn.inv_temperature.to(tl.float32)
    if drawn.filtered:
        if own.arrays.groups is not None:
            place, listed = place_in_list(own, law.count, token // GROUP)
            if listed:
                first = place // LISTED * LISTED
                ids, z = listed_logits(row, own, first, law.count, LISTED)
                kept = (z >= law.cutoff) & (among(tree, b, at, last, ids) == 0)
                mass = tl.where(kept, weight(z, law.maximum.to(tl.float32), rate), 0.0)
                index = first + tl.arange(0, LISTED)
                tl.store(masses_of(own) + index, tl.sum(mass, 1), mask=index < law.count)
    else:
        home = token // TILE
        ids = home * TILE + tl.arange(0, TILE)
        record = records_of(own) + home * RECORD
        high = tl.load(record, cache_modifier=".cg")
        w = weight(load_row(row, ids), base_of(high), rate)
        w = tl.where(among(tree, b, at, last, ids), 0.0, w)
        tl.store(record + 1, tl.sum(w, 0))
    tl.debug_barrier()


@triton.jit
def mass_left(drawn, own, law, tiles):
    """Of the masses of a row, whatever was taken out; relative to its maximum."""
    left = tl.full([], 0.0, tl.float64)
    if drawn.filtered:
        if own.arrays.groups is not None:
            left = total_mass(Masses(masses_of(own), law.count, None, None), False)
    else:
        left = total_mass(tile_masses(drawn, own, law, tiles), True)
    return left


@triton.jit
def take_out(
    tree, row, drawn, own, law, b, at, node, tiles, TILE: tl.constexpr, LISTED: tl.constexpr
):
    """Takes a one-hot child out after those before it; what is left of p_target."""
    left = tl.full([], 1.0, tl.float64)
    if drawn.one_hot == 0:  # the argmax is never rejected
        token = token_of(tree, b, node)
        if (token >= 0) & (token < row.vocab):
            home = token.to(tl.int32)
            weigh_again(tree, row, drawn, own, law, b, at, home, node, TILE, LISTED)
        left = mass_left(drawn, own, law, tiles) / law.kept
    return left


@triton.jit
def put_back(tree, row, drawn, own, law, b, at, last, TILE: tl.constexpr, LISTED: tl.constexpr):
    node = first_child(tree, b, at)
    while (node >= 0) & (node <= last):
        token = token_of(tree, b, node)
        if (token >= 0) & (token < row.vocab):
            weigh_again(tree, row, drawn, own, law, b, at, token.to(tl.int32), -1, TILE, LISTED)
        node = next_sibling(tree, b, node)


@triton.jit
def left_in_group(tree, row, drawn, own, law, b, at, last, target):
    masses = Masses(masses_of(own), law.count, law.maximum, law.maximum)
    chunk = pick_chunk(masses, target, False)
    ids, w = group_weights(row, drawn, own, law, chunk.index, -1)
    return pick_id(chunk, ids, tl.where(among(tree, b, at, last, ids), 0.0, w))


@triton.jit
def left_in_tile(tree, row, drawn, own, law, b, at, last, tiles, target, TILE: tl.constexpr):
    chunk = pick_chunk(tile_masses(drawn, own, law, tiles), target, True)
    ids, w = tile_weights(row, drawn, own, law, chunk.index, -1, TILE)
    return pick_id(chunk, ids, tl.where(among(tree, b, at, last, ids), 0.0, w))


@triton.jit
def draw_left(tree, row, drawn, own, law, b, at, last, tiles, uniform, TILE: tl.constexpr):
    """A token of a row without its children up to ``last``; -1 where no mass is left."""
    column = tl.full([], -1, tl.int32)
    target = uniform * mass_left(drawn, own, law, tiles)
    if drawn.filtered:
        if own.arrays.groups is not None:
            column = left_in_group(tree, row, drawn, own, law, b, at, last, target)
    else:
        column = left_in_tile(tree, row, drawn, own, law, b, at, last, tiles, target, TILE)
    return column


@triton.jit
def rejected_columns(tree, drafts, b, at, last, column):
    """Which columns of the kept row are those of its children up to ``last``."""
    found = column < 0
    node = first_child(tree, b, at)
    while (node >= 0) & (node <= last):
        id_ = draft_ids(drafts, tl.maximum(token_of(tree, b, node), 0))
        found = found | (column == id_)
        node = next_sibling(tree, b, node)
    return found


@triton.jit
def sum_draft(tree, drafts, kept, b, at, last, sums, share, shares, TILE: tl.constexpr):
    """This share of the sums of p_draft without the children of a row up to ``last``."""
    tiles = tl.cdiv(drafts.vocab, TILE)
    each = tl.cdiv(tiles, shares)
    for tile in range(share * each, tl.minimum(share * each + each, tiles)):
        column = tile * TILE + tl.arange(0, TILE)
        p_draft = p_draft_of_columns(kept, column, column < drafts.vocab)
        gone = rejected_columns(tree, drafts, b, at, last, column)
        tl.store(sums + tile, tl.sum(tl.where(gone, 0.0, p_draft), 0))
