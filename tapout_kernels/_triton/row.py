"""A row of logits under its mask, and where what is kept of rows lies."""

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
    mask: object  # at the row's first word, or None
    words: object  # i32
    d2t: object  # target id of every column, or None: the column itself


class Scratch(NamedTuple):
    """What is kept of the rows of one launch; ``at`` gives those of one row."""

    records: object  # [rows, tiles, RECORD] f32
    groups: object  # [rows, tiles * TILE / GROUP] f32 maxima, or None without filters
    listed: object  # the same shape, i32: groups that hold kept logits
    masses: object  # the same shape, f32: kept mass of each listed group
    scores: object  # [rows, tiles] f64 best Gumbel score, or None
    winners: object  # [rows, tiles] i32 column of it


@triton.jit
def scratch_of(scratch, row, tiles, TILE: tl.constexpr):
    groups, listed, masses = scratch.groups, scratch.listed, scratch.masses
    scores, winners = scratch.scores, scratch.winners
    first = row.to(tl.int64) * tiles
    if groups is not None:
        groups += first * (TILE // GROUP)
        listed += first * (TILE // GROUP)
        masses += first * (TILE // GROUP)
    if scores is not None:
        scores += first
        winners += first
    return Scratch(scratch.records + first * RECORD, groups, listed, masses, scores, winners)


@triton.jit
def row_at(logits, r, stride, vocab, mask, mask_stride, words, d2t):
    """Row ``r`` of [.., V] logits and of their mask."""
    if mask is not None:
        mask += r.to(tl.int64) * mask_stride
    start = logits + r.to(tl.int64) * stride
    return Row(start, vocab.to(tl.int32), mask, words.to(tl.int32), d2t)


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
    bits = tl.load(row.mask + word, mask=inside & (word < row.words), other=0)
    return ((bits >> (target & 31)) & 1) != 0


@triton.jit
def load_row(row, ids):
    """float32 logits of any shape, -inf outside the row and where the mask forbids."""
    z = tl.load(row.logits + ids, mask=ids < row.vocab, other=float("-inf")).to(tl.float32)
    if row.mask is not None:
        z = tl.where(allows(row, ids), z, float("-inf"))
    return z
