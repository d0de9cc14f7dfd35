"""Which of some scores are the best, without a sort: all whose key is above a limit, and the first
at it.  The limit is found by splitting the range of keys evenly, PIVOTS of them in one pass."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.sampling import order_key

LOOKED = tl.constexpr(256)  # scores looked at together
PIVOTS = tl.constexpr(8)
LARGEST = tl.constexpr(0xFFFFFFFE)


class Best(NamedTuple):
    limit: object  # i64
    ties: object  # i32 how many at the limit


@triton.jit
def keys_of(score, first, end):
    """Keys of scores first .. first + LOOKED; -1 where there is none, or it is -inf."""
    index = first + tl.arange(0, LOOKED)
    value = tl.load(score + index, mask=index < end, other=float("-inf"), cache_modifier=".cg")
    return index, tl.where(value > float("-inf"), order_key(value), -1)


@triton.jit
def count_from(score, begin, end, limits):
    """[P] how many keys reach each limit."""
    found = limits.to(tl.int32) * 0
    for first in range(begin, end, LOOKED):
        _, key = keys_of(score, first, end)
        reached = (key[None, :] >= limits[:, None]) & (key >= 0)[None, :]
        found += tl.sum(reached.to(tl.int32), 1)
    return found


@triton.jit
def best_scores(score, begin, end, wanted):
    """The ``wanted`` best of scores begin .. end above -inf, or all if there are fewer."""
    step = tl.arange(0, PIVOTS).to(tl.int64)
    low, high = tl.full([], 0, tl.int64), tl.full([], LARGEST, tl.int64)
    everything = tl.max(count_from(score, begin, end, step * 0), 0)
    high = tl.where(everything <= wanted, low, high)
    while low < high:
        width = (high - low + PIVOTS) // (PIVOTS + 1)
        pivot = tl.minimum(low + (1 + step) * width, high)
        enough = count_from(score, begin, end, pivot) >= wanted
        passed = tl.sum(enough.to(tl.int64), 0)
        failure = tl.minimum(low + (passed + 1) * width, high)
        high = tl.where(passed < PIVOTS, failure - 1, high)
        low = tl.minimum(low + passed * width, high)
    above = tl.max(count_from(score, begin, end, step * 0 + low + 1), 0)
    return Best(low, tl.where(everything <= wanted, 0, wanted - above))


@triton.jit
def are_best(best, key, tied):
    """[LOOKED] which keys are among the best; ``tied`` before them were at the limit."""
    at_limit = (key == best.limit) & (key >= 0)
    place = tied + tl.cumsum(at_limit.to(tl.int32), 0)
    chosen = (key > best.limit) | (at_limit & (place <= best.ties))
    return chosen, tied + tl.sum(at_limit.to(tl.int32), 0)
