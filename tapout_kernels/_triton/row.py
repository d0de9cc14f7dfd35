"""A row of logits under its mask, and where what is kept of rows lies.

Kernels build these records themselves: Triton 3.6 cannot return one that holds None.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.rows import state_row

GROUP = tl.constexpr(128)  # ids that share a maximum
RECORD = tl.constexpr(4)  # floats of a tile: maximum, sum, dev, smallest finite logit


class Row(NamedTuple):
    logits: object  # at the row's first logit
    vocab: object  # i32
    mask: object  # words of every row, or None
    mask_at: object  # i64 the row's first word
    words: object  # i32
    d2t: object  # target id of every column, or None: the column itself


class Scratch(NamedTuple):
    """What is kept of the rows of one launch."""

    records: object  # [rows, tiles, RECORD] f32
    groups: object  # [rows, tiles * TILE / GROUP] f32 maxima, or None without filters
    listed: object  # the same shape, i32: groups that hold kept logits
    masses: object  # the same shape, f32: kept mass of each listed group
    scores: object  # [rows, tiles] f64 best Gumbel score, or None
    winners: object  # [rows, tiles] i32 column of it


class RowScratch(NamedTuple):
    """That of one row."""

    arrays: object  # Scratch
    tile: object  # i64 the row's first tile
    group: object  # i64 the row's first group


@triton.jit
def records_of(scratch):
    return scratch.arrays.records + scratch.tile * RECORD


@triton.jit
def groups_of(scratch):
    return scratch.arrays.groups + scratch.group


@triton.jit
def listed_of(scratch):
    return scratch.arrays.listed + scratch.group


@triton.jit
def masses_of(scratch):
    return scratch.arrays.masses + scratch.group


@triton.jit
def scores_of(scratch):
    return scratch.arrays.scores + scratch.tile


@triton.jit
def winners_of(scratch):
    return scratch.arrays.winners + scratch.tile


@triton.jit
def known_row(rows, b, count):
    """The row of state of batch row ``b``, safe to index with, and whether there is one."""
    row = state_row(rows, count, b.to(tl.int64), b >= 0)
    return tl.maximum(row, 0), row >= 0


@triton.jit
def target_ids(row, ids):
    """Columns -> target ids; ids outside the row give any."""
    if row.d2t is not None:
        found = tl.load(row.d2t + ids, mask=ids < row.vocab, other=0)
    else:
        found = ids
    return found


@triton.jit
def allows(row, ids):
    """Whether the mask lets columns of any shape through; false outside the row."""
    inside = ids < row.vocab
    target = target_ids(row, ids)
    word = target >> 5
    bits = tl.load(row.mask + row.mask_at + word, mask=inside & (word < row.words), other=0)
    return ((bits >> (target & 31)) & 1) != 0


@triton.jit
def load_row(row, ids):
    """float32 logits of any shape, -inf outside the row and where the mask forbids."""
    z = tl.load(row.logits + ids, mask=ids < row.vocab, other=float("-inf")).to(tl.float32)
    if row.mask is not None:
        z = tl.where(allows(row, ids), z, float("-inf"))
    return z
