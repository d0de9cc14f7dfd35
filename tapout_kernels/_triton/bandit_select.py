"""``bandit_select``: one program for each group and slot."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .choice import Choice, finish, put
from .core.bandit import (
    ARM_DRAWS,
    EPSILON_GREEDY,
    EXP3,
    FIXED,
    HEDGE,
    NORMALHEDGE,
    POLICY_PARAM,
    THOMPSON_BETA,
    THOMPSON_GAUSSIAN,
    UCB1,
    UCB_TUNED,
    UCBSPEC,
    ArmValue,
    arm_value,
    explored_arm,
    fixed_arm,
    thompson_beta,
    thompson_gaussian,
)
from .core.rng import BANDIT, uniform_pair
from .core.weights import arm_probabilities, drawn_by_weight
from .launch import Shape, launch, workspace
from .pending import choose_pending
from .tables import Requests, Sizes, Tables, check_policy, check_reward, group_of, read_arms, sizes

ROWS = 128  # of the batch, looked at together
TILE = 1024  # pairs of an entry and an arm, compared at once
DRAWS = 256  # pairs of a row and an arm, drawn at once
WARPS = 4
DRAWING = (
    THOMPSON_GAUSSIAN.value, THOMPSON_BETA.value, EPSILON_GREEDY.value, EXP3.value, HEDGE.value,
    NORMALHEDGE.value,
)  # fmt: skip


@triton.jit
def best_arm(score, lane, arms):
    """[ROWS] of [ROWS, ARMS]: the lowest arm of the best score; NaN counts as the best."""
    score = tl.where(score == score, score, float("inf"))
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


@triton.jit
def choose_weighted(
    arms, lane, requests, choice, size, group, slot, epsilon, POLICY: tl.constexpr,
    ARMS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Every row's distribution is where its round will look for it."""
    seed, calls = tl.load(choice.seed), tl.load(choice.calls)
    prob = arm_probabilities(arms, lane, size.arms, epsilon, POLICY)
    for begin in range(0, size.batch, ROWS):
        b = begin + tl.arange(0, ROWS)
        row, own = group_of(requests, size, b)
        mine = own == group
        word = b * 0 + slot * size.arms * ARM_DRAWS
        uniform, _ = uniform_pair(seed, b, word, calls, BANDIT)
        put(choice, size, slot, b, row, drawn_by_weight(prob, lane, uniform, ARMS), mine)
        cell = (row[:, None] * size.arms + lane[None, :]) * size.table_slots + slot
        here = mine[:, None] & (lane[None, :] < size.arms)
        tl.store(choice.arm_prob + cell, tl.broadcast_to(prob[None, :], [ROWS, ARMS]), mask=here)


@triton.jit
def choose(
    arms, lane, requests, params, choice, size, group, slot, longest,
    POLICY: tl.constexpr, REWARD: tl.constexpr, ARMS: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr, DRAWS: tl.constexpr,
):  # fmt: skip
    """An arm for every row of the group."""
    param = tl.load(params + POLICY_PARAM)
    value = arm_value(arms, size.slots, REWARD)
    if (POLICY == UCB1) | (POLICY == UCB_TUNED) | (POLICY == UCBSPEC):
        choose_pending(
            value, lane, requests, choice, size, group, slot, param, longest, POLICY, ARMS, ROWS,
            TILE,
        )  # fmt: skip
    elif POLICY >= EXP3:
        choose_weighted(
            arms, lane, requests, choice, size, group, slot, param, POLICY, ARMS, DRAWS // ARMS
        )
    else:
        choose_drawn(
            value, lane, requests, choice, size, group, slot, param, POLICY, ARMS, DRAWS // ARMS
        )


SIZES = [*Sizes._fields, "longest"]


@triton.jit(do_not_specialize=SIZES)
def bandit_select_kernel(
    tables, requests, choice,
    batch: tl.int64, states: tl.int64, groups: tl.int64, arms: tl.int64, table_slots: tl.int64,
    slots: tl.int64, longest: tl.int64, POLICY: tl.constexpr, REWARD: tl.constexpr,
    ARMS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, DRAWS: tl.constexpr,
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


def choice_shapes(size: Sizes, policy: int, staged: bool) -> tuple[Shape, ...]:
    """Of ``staged``, ``scores`` and ``ranked``; empty what is not needed."""
    each = size.table_slots * size.batch
    pending = each if policy in (UCB1.value, UCB_TUNED.value, UCBSPEC.value) else 0
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
    arm_prob: Tensor | None,  # [R, A] f64 or [R, A, K], and so is this
) -> None:
    check_policy("bandit_select", policy, count, arm_prob)
    check_reward("bandit_select", reward, count)
    size = sizes(arm, rows, count, slots)
    scratch = workspace(arm.device, 1, *choice_shapes(size, policy, staged=False))
    _, scores, ranked = scratch.arrays
    ticket = scratch.tickets if policy in DRAWING else None
    launch(
        bandit_select_kernel, size.groups * size.table_slots,
        Tables(count, reward_sum, reward_sq, tokens, cost, params), Requests(rows, group, live),
        Choice(arm, arm_prob, None, scores, ranked, seed, calls, ticket), *size, warps=WARPS,
        **choice_constants(size, policy, reward),
    )  # fmt: skip
