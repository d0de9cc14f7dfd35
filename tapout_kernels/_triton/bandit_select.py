"""``bandit_select``: one program for each group and slot.

ucb1, ucb_tuned: rows choose in order, and a pull counts in the score of the next row.  An arm's
score never rises with its pulls, so the choices of n rows are the n best of all (arm, j-th pull),
by score, then arm, then j: a merge of as many falling sequences as there are arms.  Each entry
finds its rank alone: j, and for every other arm the length of what goes before, by bisection.  The
group's r-th row takes the entry of rank r.  The other policies draw for each row on its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.bandit import (
    ARM_DRAWS,
    EPSILON_GREEDY,
    FIXED,
    POLICY_PARAM,
    THOMPSON_BETA,
    THOMPSON_GAUSSIAN,
    UCB1,
    UCB_TUNED,
    ArmValue,
    arm_value,
    explored_arm,
    fixed_arm,
    log_pulls,
    pending_score,
    thompson_beta,
    thompson_gaussian,
)
from .launch import Shape, launch, workspace
from .params import Pointer
from .tables import Requests, Sizes, Tables, check_reward, group_of, read_arms, sizes

ROWS = 128  # of the batch, looked at together
TILE = 2048  # pairs of an entry and an arm, compared at once
DRAWS = 256  # pairs of a row and an arm, drawn at once
WARPS = 4
DRAWING = (THOMPSON_GAUSSIAN.value, THOMPSON_BETA.value, EPSILON_GREEDY.value)


class Choice(NamedTuple):
    """Where choices go."""

    arm: Pointer  # [R] or [R, K] i32
    staged: Pointer  # [S, B] i32: nothing may be written to `arm` yet; None: it may
    scores: Pointer  # [S, B, A] f64, and the next: of the policies that count pending pulls
    ranked: Pointer  # [S, B] i32
    seed: Pointer  # [1] i64
    calls: Pointer  # [1] i64
    ticket: Pointer  # i32; None: no program waits for another


@triton.jit
def put(choice, size, slot, b, row, arm, mine):
    if choice.staged is None:
        tl.store(choice.arm + row * size.table_slots + slot, arm.to(tl.int32), mask=mine)
    else:
        tl.store(choice.staged + slot * size.batch + b, arm.to(tl.int32), mask=mine)


# ---- with pending pulls --------------------------------------------------------------------------


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
def score_pulls(
    scores, ranked, value, lane, size, rows, param, POLICY: tl.constexpr, PULLS: tl.constexpr
):
    """[A, rows] scores; ranked: an arm for every row, where a score that is NaN ranks nowhere."""
    log_t = log_pulls(tl.sum(value.count, 0) + rows.to(tl.float64))
    column = ArmValue(
        value.count[:, None], value.reward_sum[:, None], value.mean[:, None],
        value.variance[:, None],
    )  # fmt: skip
    for begin in range(0, rows, PULLS):
        pull = begin + tl.arange(0, PULLS)
        inside = pull < rows
        score = pending_score(column, pull[None, :].to(tl.float64), log_t, param, POLICY)
        at = lane[:, None] * rows + pull[None, :]
        tl.store(scores + at, score, mask=(lane[:, None] < size.arms) & inside[None, :])
        tl.store(ranked + pull, tl.zeros([PULLS], tl.int32), mask=inside)


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
    score_pulls(scores, ranked, value, lane, size, rows, param, POLICY, TILE // ARMS)
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


# ---- from the state as it is ---------------------------------------------------------------------


@triton.jit
def best_arm(score, lane, arms):
    """[ROWS] of [ROWS, ARMS]: the lowest arm of the best score; NaN counts as the best."""
    score = tl.where(score == score, score, float("inf"))  # noqa: PLR0124
    score = tl.where(lane[None, :] < arms, score, float("-inf"))
    best = tl.max(score, 1)
    return tl.min(tl.where(score == best[:, None], lane[None, :], arms), 1)


@triton.jit
def draw(
    value, lane, size, slot, b, mine, param, seed, calls, POLICY: tl.constexpr, ARMS: tl.constexpr
):
    """The arms of the rows ``b``."""
    shape: tl.constexpr = [b.shape[0], ARMS]
    row = tl.broadcast_to(b[:, None], shape)
    word = tl.broadcast_to(((slot * size.arms + lane) * ARM_DRAWS)[None, :], shape)
    arms = ArmValue(
        value.count[None, :], value.reward_sum[None, :], value.mean[None, :],
        value.variance[None, :],
    )  # fmt: skip
    if POLICY == THOMPSON_GAUSSIAN:
        score = thompson_gaussian(arms, seed, row, word, calls, param)
    elif POLICY == THOMPSON_BETA:
        wanted = mine[:, None] & (lane[None, :] < size.arms)
        score = thompson_beta(arms, seed, row, word, calls, wanted)
    else:
        best = tl.where(arms.count > 0.0, arms.mean, float("inf"))
        score = tl.broadcast_to(best, shape)
    arm = best_arm(score, lane, size.arms)
    if POLICY == EPSILON_GREEDY:
        word = b * 0 + slot * size.arms * ARM_DRAWS
        explored = explored_arm(seed, b, word, calls, param, size.arms)
        arm = tl.where(explored >= 0, explored, arm)
    return arm


@triton.jit
def choose_drawn(
    value, lane, requests, choice, size, group, slot, param,
    POLICY: tl.constexpr, ARMS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    seed, calls = tl.load(choice.seed), tl.load(choice.calls)
    for begin in range(0, size.batch, ROWS):
        b = begin + tl.arange(0, ROWS)
        row, own = group_of(requests, size, b)
        mine = own == group
        if tl.max(mine.to(tl.int32), 0) > 0:
            if POLICY == FIXED:
                arm = b * 0 + fixed_arm(param)
            else:
                arm = draw(value, lane, size, slot, b, mine, param, seed, calls, POLICY, ARMS)
            put(choice, size, slot, b, row, arm, mine)


# ---- both ----------------------------------------------------------------------------------------


@triton.jit
def choose(
    arms, lane, requests, params, choice, size, group, slot, longest,
    POLICY: tl.constexpr, REWARD: tl.constexpr, ARMS: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr, DRAWS: tl.constexpr,
):  # fmt: skip
    """An arm for every row of the group."""
    param = tl.load(params + POLICY_PARAM)
    value = arm_value(arms, size.slots, REWARD)
    if (POLICY == UCB1) | (POLICY == UCB_TUNED):
        choose_pending(
            value, lane, requests, choice, size, group, slot, param, longest, POLICY, ARMS, ROWS,
            TILE,
        )  # fmt: skip
    else:
        choose_drawn(
            value, lane, requests, choice, size, group, slot, param, POLICY, ARMS, DRAWS // ARMS
        )


@triton.jit
def publish(requests, choice, size, ROWS: tl.constexpr):
    """The staged arms of every row, by the last program: nobody reads the old ones any more."""
    for begin in range(0, size.batch, ROWS):
        b = begin + tl.arange(0, ROWS)
        row, group = group_of(requests, size, b)
        for slot in range(0, size.table_slots):
            staged = choice.staged + slot * size.batch + b
            arm = tl.load(staged, mask=group >= 0, other=0, cache_modifier=".cg")
            tl.store(choice.arm + row * size.table_slots + slot, arm, mask=group >= 0)


@triton.jit
def finish(requests, choice, size, ROWS: tl.constexpr):
    """One call more, when every program has read the number of calls."""
    last = tl.program_id(0) == 0
    if choice.ticket is not None:
        tl.debug_barrier()
        last = tl.atomic_add(choice.ticket, 1, sem="acq_rel") == tl.num_programs(0) - 1
    if last:
        if choice.ticket is not None:
            tl.store(choice.ticket, 0)
        if choice.staged is not None:
            publish(requests, choice, size, ROWS)
        tl.store(choice.calls, tl.load(choice.calls) + 1)


SIZES = [*Sizes._fields, "longest"]


@triton.jit(do_not_specialize=SIZES)
def bandit_select_kernel(
    tables, requests, choice,
    batch: "i64", states: "i64", groups: "i64", arms: "i64", table_slots: "i64", slots: "i64",
    longest: "i64", POLICY: tl.constexpr, REWARD: tl.constexpr, ARMS: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, DRAWS: tl.constexpr,
):  # fmt: skip
    size = Sizes(batch, states, groups, arms, table_slots, slots)
    program = tl.program_id(0).to(tl.int64)
    group, slot = program // table_slots, program % table_slots
    lane = tl.arange(0, ARMS)
    known = read_arms(tables, size, group, slot, lane)
    choose(
        known, lane, requests, tables.params, choice, size, group, slot, longest, POLICY, REWARD,
        ARMS, ROWS, TILE, DRAWS,
    )  # fmt: skip
    finish(requests, choice, size, ROWS)


def check_policy(op: str, policy: int) -> None:
    if not 0 <= policy <= EPSILON_GREEDY.value:
        raise RuntimeError(f"{op}: policy must be 0 (fixed) to 5 (epsilon_greedy), got {policy}")


def choice_shapes(size: Sizes, policy: int, staged: bool) -> tuple[Shape, ...]:
    """Of ``staged``, ``scores`` and ``ranked``; empty what is not needed."""
    each = size.table_slots * size.batch
    pending = each if policy in (UCB1.value, UCB_TUNED.value) else 0
    return (
        ((each if staged else 0,), torch.int32),
        ((pending * size.arms,), torch.float64),
        ((pending,), torch.int32),
    )


def choice_constants(size: Sizes, policy: int, reward: int) -> dict[str, int]:
    """``longest`` and the constants of a kernel that chooses."""
    block = triton.next_power_of_2(size.arms)
    return {
        "longest": 1 << size.batch.bit_length(), "POLICY": policy, "REWARD": reward,
        "ARMS": block, "ROWS": ROWS, "TILE": max(TILE, block), "DRAWS": max(DRAWS, block),
    }  # fmt: skip


def bandit_select(
    count: Tensor,  # [G, A] f64, or [G, A, K] at token level, and the next two
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,
    cost: Tensor,
    params: Tensor,
    seed: Tensor,
    group: Tensor | None,
    live: Tensor | None,
    rows: Tensor | None,
    policy: int,
    reward: int,
    slots: int,
    calls: Tensor,  # [1] i64, advanced
    arm: Tensor,  # [R] i32 or [R, K], written for rows that take part
) -> None:
    check_policy("bandit_select", policy)
    check_reward("bandit_select", reward, count)
    size = sizes(arm, rows, count, slots)
    scratch = workspace(arm.device, 1, *choice_shapes(size, policy, staged=False))
    _, scores, ranked = scratch.arrays
    ticket = scratch.tickets if policy in DRAWING else None
    launch(
        bandit_select_kernel, size.groups * size.table_slots,
        Tables(count, reward_sum, reward_sq, tokens, cost, params), Requests(rows, group, live),
        Choice(arm, None, scores, ranked, seed, calls, ticket), *size, warps=WARPS,
        **choice_constants(size, policy, reward),
    )  # fmt: skip
