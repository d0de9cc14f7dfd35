"""Cutoffs of top-k, top-p and min-p by search on a cached row, without a sort.

Group maxima bound the cutoff from below: k groups reach the k-th largest of them, and the mass of
the maxima alone may reach top-p.  Only groups that reach the bound are listed and read again.  A
search splits its range of keys evenly: PIVOTS limits are measured in one pass over the list.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.sampling import coarse_key, coarse_value
from .core.stats import weight
from .row import GROUP, groups_of, listed_of, load_row, masses_of


class Filtered(NamedTuple):
    cutoff: object  # f32, an actual logit: z >= cutoff is kept
    kept: object  # f64 mass kept, relative to the maximum
    count: object  # i32 listed groups


class Peak(NamedTuple):
    """What weights are measured by."""

    maximum: object  # f32
    rate: object  # f32, 1/T


@triton.jit
def listed_logits(row, scratch, first, count, LISTED: tl.constexpr):
    """LISTED groups of the list: their ids and logits, [LISTED, GROUP] each."""
    index = first + tl.arange(0, LISTED)
    nowhere = tl.cdiv(row.vocab, GROUP)
    group = tl.load(listed_of(scratch) + index, mask=index < count, other=nowhere)
    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    return ids, load_row(row, ids)


@triton.jit
def measure(z, limits, peak, MASS: tl.constexpr):
    """[N] logits, [P] limits -> [P] f64: how many reach each limit, or their mass."""
    if MASS:
        value = weight(z, peak.maximum, peak.rate)
    else:
        value = z * 0.0 + 1.0
    reached = tl.where(z[None, :] >= limits[:, None], value[None, :], 0.0)
    return tl.sum(reached, 1).to(tl.float64)


@triton.jit
def measure_maxima(scratch, groups, limits, peak, MASS: tl.constexpr, BLOCK: tl.constexpr):
    total = limits.to(tl.float64) * 0.0
    for first in range(0, groups, BLOCK):
        index = first + tl.arange(0, BLOCK)
        z = tl.load(groups_of(scratch) + index, index < groups, float("-inf"), cache_modifier=".cg")
        total += measure(z, limits, peak, MASS)
    return total


@triton.jit
def measure_listed(row, scratch, count, limits, peak, MASS: tl.constexpr, LISTED: tl.constexpr):
    total = limits.to(tl.float64) * 0.0
    for first in range(0, count, LISTED):
        _, z = listed_logits(row, scratch, first, count, LISTED)
        total += measure(tl.reshape(z, [LISTED * GROUP]), limits, peak, MASS)
    return total


@triton.jit
def largest_reaching(
    row, scratch, count, low, high, goal, peak,
    MAXIMA: tl.constexpr, MASS: tl.constexpr,
    PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """The largest coarse key in [low, high] whose measure reaches the goal; low is taken to.

    ``count``: group maxima to measure, or listed groups.
    """
    while low < high:
        width = (high - low + PIVOTS + 1) // (PIVOTS + 1)
        pivot = tl.minimum(low + (1 + tl.arange(0, PIVOTS)) * width, high)
        limits = coarse_value(pivot, PRECISION)
        if MAXIMA:
            found = measure_maxima(scratch, count, limits, peak, MASS, LISTED * GROUP)
        else:
            found = measure_listed(row, scratch, count, limits, peak, MASS, LISTED)
        passed = tl.sum((found >= goal).to(tl.int64), 0)
        first_failure = tl.minimum(low + (passed + 1) * width, high)
        high = tl.where(passed < PIVOTS, first_failure - 1, high)
        low = tl.minimum(low + passed * width, high)
    return low


@triton.jit
def list_groups(scratch, groups, bound, BLOCK: tl.constexpr):
    """Lists the groups whose maximum reaches ``bound``, in order; how many there are."""
    count = tl.full([], 0, tl.int32)
    for first in range(0, groups, BLOCK):
        index = first + tl.arange(0, BLOCK)
        z = tl.load(groups_of(scratch) + index, index < groups, float("-inf"), cache_modifier=".cg")
        listed = z >= bound
        tl.store(listed_of(scratch) + count + tl.cumsum(listed.to(tl.int32), 0) - 1, index, listed)
        count += tl.sum(listed.to(tl.int32), 0)
    tl.debug_barrier()
    return count


@triton.jit
def keep_from(row, scratch, count, cutoff, peak, without, LISTED: tl.constexpr):
    """Leaves the kept mass of every listed group in ``scratch.masses``; their sum.

    ``without``: an id that counts for nothing, or -1.
    """
    total = tl.full([], 0.0, tl.float64)
    for first in range(0, count, LISTED):
        ids, z = listed_logits(row, scratch, first, count, LISTED)
        kept = (z >= cutoff) & (ids != without)
        mass = tl.sum(tl.where(kept, weight(z, peak.maximum, peak.rate), 0.0), 1)
        index = first + tl.arange(0, LISTED)
        tl.store(masses_of(scratch) + index, mass, mask=index < count)
        total += tl.sum(mass.to(tl.float64), 0)
    tl.debug_barrier()
    return total


@triton.jit
def smallest_reaching(row, scratch, count, min_p, peak, LISTED: tl.constexpr):
    """min-p's cutoff; the maximum always counts."""
    least = peak.maximum
    for first in range(0, count, LISTED):
        _, z = listed_logits(row, scratch, first, count, LISTED)
        z = tl.reshape(z, [LISTED * GROUP])
        reaches = weight(z, peak.maximum, peak.rate).to(tl.float64) >= min_p
        least = tl.minimum(least, tl.min(tl.where(reaches, z, float("inf")), 0))
    return least


@triton.jit
def lower_bound(
    row, sampling, scratch, groups, least, total, peak,
    PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """A coarse key that the cutoff is not below, from the group maxima alone."""
    low = coarse_key(least, PRECISION)
    high = coarse_key(peak.maximum, PRECISION)
    if sampling.top_k > 0:
        low = largest_reaching(
            row, scratch, groups, low, high, sampling.top_k.to(tl.float64), peak,
            True, False, PRECISION, PIVOTS, LISTED,
        )  # fmt: skip
    elif sampling.top_p < 1.0:
        low = largest_reaching(
            row, scratch, groups, low, high, sampling.top_p * total, peak,
            True, True, PRECISION, PIVOTS, LISTED,
        )  # fmt: skip
    else:  # min-p alone: z >= m + T ln(min_p), up to rounding
        span = tl.log(sampling.min_p) * sampling.temperature
        bound = (peak.maximum.to(tl.float64) + span * (1.0 + 1e-6)).to(tl.float32)
        bound -= tl.abs(bound) * 1e-6
        low = tl.maximum(low, coarse_key(tl.minimum(bound, peak.maximum), PRECISION))
    return low


@triton.jit
def filter_row(
    row, sampling, scratch, groups, least, total, peak,
    PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """The cutoff of a row that a filter applies to; its list and masses are left in scratch."""
    low = lower_bound(row, sampling, scratch, groups, least, total, peak, PRECISION, PIVOTS, LISTED)
    high = coarse_key(peak.maximum, PRECISION)
    count = list_groups(scratch, groups, coarse_value(low, PRECISION), LISTED * GROUP)
    mass = total
    if sampling.top_k > 0:
        low = largest_reaching(
            row, scratch, count, low, high, sampling.top_k.to(tl.float64), peak,
            False, False, PRECISION, PIVOTS, LISTED,
        )  # fmt: skip
        mass = keep_from(row, scratch, count, coarse_value(low, PRECISION), peak, -1, LISTED)
    if sampling.top_p < 1.0:
        low = largest_reaching(
            row, scratch, count, low, high, sampling.top_p * mass, peak,
            False, True, PRECISION, PIVOTS, LISTED,
        )  # fmt: skip
    cutoff = coarse_value(low, PRECISION)
    if (sampling.top_k == 0) & (sampling.top_p == 1.0):
        cutoff = least
    if sampling.min_p > 0.0:
        reached = smallest_reaching(row, scratch, count, sampling.min_p, peak, LISTED)
        cutoff = tl.maximum(cutoff, reached)
    kept = keep_from(row, scratch, count, cutoff, peak, -1, LISTED)
    return Filtered(cutoff, kept, count)
