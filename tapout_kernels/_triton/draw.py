"""Inverse CDF by chunks: the first id whose inclusive prefix exceeds u * total, ids ascending.

A chunk is a tile, or a listed group of a filtered row; its mass lies in scratch, so that only the
chosen chunk is read again.  Where rounding finds none: the last id of positive mass.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .row import RECORD

NONE = tl.constexpr(2**31 - 1)
BLOCK = tl.constexpr(128)  # chunks looked at together


class Chunk(NamedTuple):
    index: object
    empty: object  # there is no mass at all
    before: object  # f64 mass of the chunks before it
    target: object  # f64 u * total mass


class Masses(NamedTuple):
    """Where the mass of a chunk is."""

    at: object  # [count] f32, or records of tiles
    count: object
    base: object  # f64 maximum of the row and
    inv_temperature: object  # f64: what the sums of records are measured by


@triton.jit
def chunk_masses(masses, index, RECORDS: tl.constexpr):
    """float64; the sum of a record is relative to its own maximum."""
    known = index < masses.count
    if RECORDS:
        at = masses.at + index * RECORD
        high = tl.load(at, mask=known, other=float("-inf"), cache_modifier=".cg").to(tl.float64)
        part = tl.load(at + 1, mask=known, other=0.0, cache_modifier=".cg").to(tl.float64)
        mass = tl.exp((high - masses.base) * masses.inv_temperature) * part
    else:
        mass = tl.load(masses.at + index, mask=known, other=0.0, cache_modifier=".cg")
    return mass.to(tl.float64)


@triton.jit
def total_mass(masses, RECORDS: tl.constexpr):
    total = tl.full([], 0.0, tl.float64)
    for first in range(0, masses.count, BLOCK):
        total += tl.sum(chunk_masses(masses, first + tl.arange(0, BLOCK), RECORDS), 0)
    return total


@triton.jit
def pick_chunk(masses, target, RECORDS: tl.constexpr):
    """The chunk in which the running sum of the masses passes ``target``."""
    chosen, last = tl.full([], NONE, tl.int32), tl.full([], -1, tl.int32)
    before, last_before = tl.full([], 0.0, tl.float64), tl.full([], 0.0, tl.float64)
    carry = tl.full([], 0.0, tl.float64)
    for first in range(0, masses.count, BLOCK):
        index = first + tl.arange(0, BLOCK)
        mass = chunk_masses(masses, index, RECORDS)
        prefix = carry + tl.cumsum(mass, 0)
        hit = tl.min(tl.where((mass > 0) & (prefix > target), index, NONE), 0)
        end = tl.max(tl.where(mass > 0, index, -1), 0)
        start = prefix - mass
        take = (chosen == NONE) & (hit != NONE)
        before = tl.where(take, tl.sum(tl.where(index == hit, start, 0.0), 0), before)
        chosen = tl.where(take, hit, chosen)
        last_start = tl.sum(tl.where(index == end, start, 0.0), 0)
        last_before = tl.where(end >= 0, last_start, last_before)
        last = tl.maximum(last, end)
        carry += tl.sum(mass, 0)
    found = chosen != NONE
    index = tl.maximum(tl.where(found, chosen, last), 0)
    return Chunk(index, last < 0, tl.where(found, before, last_before), target)


@triton.jit
def pick_id(chunk, ids, weights):
    """One of the ascending ``ids`` of the chosen chunk; -1 where none has mass."""
    mass = weights.to(tl.float64)
    prefix = chunk.before + tl.cumsum(mass, 0)
    hit = tl.min(tl.where((mass > 0) & (prefix > chunk.target), ids, NONE), 0)
    last = tl.max(tl.where(mass > 0, ids, -1), 0)
    return tl.where(chunk.empty, -1, tl.where(hit != NONE, hit, last))
