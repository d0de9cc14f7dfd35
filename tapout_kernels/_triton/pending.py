"""Choices of ucb1, ucb_tuned and ucbspec: rows choose in order, a pull counts in later scores.

An arm's score never rises with its pulls, so the choices of n rows are the n best of all (arm, j-th
pull), by score, then arm, then j: a merge of as many falling sequences as there are arms.  Each
entry finds its rank alone: j, and for every other arm the number of pulls that go before, by
bisection.  The group's r-th row takes the entry of rank r.

The j-th pull is scored at count + j, rounded once: where the definition adds ones to a discounted
count, the last bit may differ, which can matter in a near tie alone.  Nothing goes before a score
that is NaN: the pulls of such an arm take every rank there is, so that every row gets an arm.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .choice import put
from .core.bandit import ArmValue, log_pulls, pending_score
from .tables import group_of


@triton.jit
def count_rows(requests, size, group, ROWS: tl.constexpr):
    """Rows of the groups before this one, and of this one."""
    before = group * 0
    own = group * 0
    for begin in range(0, size.batch, ROWS):
        b = begin + tl.arange(0, ROWS)
        _, other = group_of(requests, size, b)
        before += tl.sum(((other >= 0) & (other < group)).to(tl.int64), 0)
        own += tl.sum((other == group).to(tl.int64), 0)
    return before, own


@triton.jit
def score_pulls(scores, value, lane, size, rows, param, POLICY: tl.constexpr, PULLS: tl.constexpr):
    """[A, rows] scores."""
    log_t = log_pulls(tl.sum(value.count, 0) + rows.to(tl.float64))
    column = ArmValue(
        value.count[:, None], value.reward_sum[:, None], value.mean[:, None],
        value.variance[:, None],
    )  # fmt: skip
    for begin in range(0, rows, PULLS):
        pull = begin + tl.arange(0, PULLS)
        score = pending_score(column, pull[None, :].to(tl.float64), log_t, size.arms, param, POLICY)
        at = lane[:, None] * rows + pull[None, :]
        tl.store(scores + at, score, mask=(lane[:, None] < size.arms) & (pull[None, :] < rows))


@triton.jit
def rank_pulls(
    scores, ranked, lane, size, rows, longest, ARMS: tl.constexpr, ENTRIES: tl.constexpr
):
    """ranked[r] = the arm of rank r; ``longest``: a power of two, more than half of any group."""
    other = lane[None, :]
    for begin in range(0, rows * ARMS, ENTRIES):
        entry = begin + tl.arange(0, ENTRIES)
        arm, pull = entry % ARMS, entry // ARMS
        inside = (arm < size.arms) & (pull < rows)
        score = tl.load(scores + arm * rows + pull, mask=inside, other=0.0)
        compared = inside[:, None] & (other < size.arms)
        ahead = tl.zeros([ENTRIES, ARMS], tl.int64)
        step = longest
        while step > 0:
            reach = ahead + step
            some = compared & (reach <= rows)
            rival = tl.load(scores + other * rows + reach - 1, mask=some, other=float("-inf"))
            first = (rival > score[:, None]) | ((rival == score[:, None]) & (other < arm[:, None]))
            ahead = tl.where(some & first, reach, ahead)
            step = step // 2
        ahead = tl.where(other == arm[:, None], pull[:, None], ahead)
        rank = tl.sum(ahead, 1)
        tl.store(ranked + rank, arm.to(tl.int32), mask=inside & (rank < rows))


@triton.jit
def choose_pending(
    value, lane, requests, choice, size, group, slot, param, longest,
    POLICY: tl.constexpr, ARMS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    before, rows = count_rows(requests, size, group, ROWS)
    first = slot * size.batch + before  # groups share the workspace: each has its rows' part
    scores, ranked = choice.scores + first * size.arms, choice.ranked + first
    score_pulls(scores, value, lane, size, rows, param, POLICY, TILE // ARMS)
    tl.debug_barrier()
    rank_pulls(scores, ranked, lane, size, rows, longest, ARMS, TILE // ARMS)
    tl.debug_barrier()
    taken = rows * 0
    for begin in range(0, size.batch, ROWS):
        b = begin + tl.arange(0, ROWS)
        row, own = group_of(requests, size, b)
        mine = own == group
        rank = taken + tl.cumsum(mine.to(tl.int64), 0) - 1
        put(choice, size, slot, b, row, tl.load(ranked + rank, mask=mine, other=0), mine)
        taken += tl.sum(mine.to(tl.int64), 0)
