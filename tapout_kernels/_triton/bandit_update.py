"""``bandit_update``: one program for each group and slot, its tables in registers.

A block of rounds is judged at once, a thread each; what it credits goes through the workspace, and
is then added row after row: float64 sums in the order of the definition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.bandit import (
    ALPHA,
    DECISION,
    DISCOUNT,
    EXP3,
    FIXED,
    HEDGE,
    OVERLAP,
    TOKEN_ACCEPT,
    bandit_reward,
    credited,
    overlap_reward,
    slot_credit,
)
from .core.stats import NUM_STATS
from .core.stop import PRE_DRAFT, RULE_PARAMS
from .core.stop_memory import Finished, update_memory
from .hedge import Said, ask_rules, check_rules, said_shapes
from .launch import launch, workspace
from .params import Pointer, Rules
from .tables import (
    Requests,
    Sizes,
    Tables,
    check_overlap,
    check_policy,
    check_reward,
    group_of,
    read_arms,
    sizes,
    write_arms,
)

ROUNDS = 128  # judged at once: one for each thread
WARPS = 4


class Rounds(NamedTuple):
    """[B] i32 of the rounds that ended, and what their arms were drawn with."""

    length: Pointer
    stats: Pointer  # [B, K, 8] f32
    stop_reason: Pointer
    num_accepted: Pointer
    overlap: Pointer  # [B, K] f32, for the reward of that name
    status: Pointer
    cost_ratio: Pointer  # [1] f32
    arm_prob: Pointer  # [R, A] or [R, A, K] f64 that arms were drawn with, or None


class Judged(NamedTuple):
    """[programs, ROUNDS]: who is credited and who pays, an arm or -1, and with what."""

    who: Pointer  # i32
    ran: Pointer  # i32
    reward: Pointer  # f64
    square: Pointer  # f64, for reward_sq


@triton.jit
def known_arm(arms_of_row, size, slot, wanted):
    arm = tl.load(arms_of_row + slot, mask=wanted, other=-1)
    return tl.where((arm >= 0) & (arm < size.arms), arm, -1)


@triton.jit
def remember(rules, rounds, size, b, row, ran):
    """The memory of the arms that ran; their rows are this program's own."""
    known = ran >= 0
    drafted = tl.load(rounds.length + b, mask=known, other=0).to(tl.float64)
    accepted = tl.load(rounds.num_accepted + b, mask=known, other=0).to(tl.float64)
    refused = tl.load(rounds.stop_reason + b, mask=known, other=0) == PRE_DRAFT
    kind = tl.load(rules.kind + ran, mask=known, other=-1)
    finished = Finished(
        accepted, drafted, size.slots.to(tl.float64), refused & (drafted <= 0.0),
        rounds.stats + b.to(tl.int64) * size.slots * NUM_STATS,
    )  # fmt: skip
    memory = rules.memory + (row * size.arms + ran) * RULE_PARAMS
    update_memory(kind, rules.param + ran * RULE_PARAMS, memory, finished, size.slots, known)


@triton.jit
def judge(
    rounds, requests, rules, params, size, group, slot, b, POLICY: tl.constexpr,
    REWARD: tl.constexpr,
):  # fmt: skip
    """Who is credited for the rounds ``b``, who pays, with what: [ROUNDS] each."""
    row, own = group_of(requests, size, b)
    mine = own == group
    mine = mine & (tl.load(rounds.status + b, mask=mine, other=1) == 0)
    accepted = tl.load(rounds.num_accepted + b, mask=mine, other=0)
    drafted = tl.load(rounds.length + b, mask=mine, other=0)
    arms_of_row = rules.arm + row * size.table_slots
    who = known_arm(arms_of_row, size, slot, mine)
    if (REWARD == DECISION) | (REWARD == TOKEN_ACCEPT):
        reason = tl.load(rounds.stop_reason + b, mask=mine, other=0)
        credit = slot_credit(reason, slot, accepted, drafted, REWARD)
        who = tl.where(credit >= 0, who, -1)
        reward = credit.to(tl.float64)
    elif REWARD == OVERLAP:
        reward = overlap_reward(rounds.overlap + b * size.slots, drafted, size.slots, mine)
    else:
        alpha = tl.load(params + ALPHA)
        slots = size.slots.to(tl.float64)
        reward = bandit_reward(
            accepted.to(tl.float64), drafted.to(tl.float64), slots, alpha, REWARD
        )
    square = reward * reward
    if POLICY >= EXP3:
        cell = (row * size.arms + who) * size.table_slots + slot
        chance = tl.load(rounds.arm_prob + cell, mask=who >= 0, other=0.0)
        who = tl.where(chance > 0.0, who, -1)
        square = (1.0 - reward) / tl.where(chance > 0.0, chance, 1.0)
    last = tl.minimum(tl.maximum(drafted, 1), size.table_slots) - 1
    ran = known_arm(arms_of_row, size, last, mine & (slot == 0))
    if rules.kind is not None and rules.memory is not None:
        remember(rules, rounds, size, b, row, ran)
    return who, ran, reward, square


@triton.jit
def learn(
    arms, lane, rounds, requests, rules, params, judged, said, size, group, slot,
    POLICY: tl.constexpr, REWARD: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """The tables after all rounds of the group."""
    discount = tl.load(params + DISCOUNT)
    cost_ratio = tl.load(rounds.cost_ratio).to(tl.float64)
    own = tl.program_id(0).to(tl.int64) * ROUNDS
    if POLICY >= HEDGE:
        ask_rules(rules, rounds, requests, params, said, size, group, lane, POLICY, REWARD)
    for begin in range(0, size.batch, ROUNDS):
        b = begin + tl.arange(0, ROUNDS)
        who, ran, reward, square = judge(
            rounds, requests, rules, params, size, group, slot, b, POLICY, REWARD
        )
        at = own + tl.arange(0, ROUNDS)
        tl.debug_barrier()  # the block before has been read
        tl.store(judged.who + at, who.to(tl.int32))
        tl.store(judged.ran + at, ran.to(tl.int32))
        tl.store(judged.reward + at, reward)
        tl.store(judged.square + at, square)
        tl.debug_barrier()
        for i in tl.range(0, tl.minimum(size.batch - begin, ROUNDS), loop_unroll_factor=8):
            emitted = tl.load(rounds.num_accepted + begin + i).to(tl.float64) + 1.0
            spent = 1.0 + cost_ratio * tl.load(rounds.length + begin + i).to(tl.float64)
            arm = tl.load(judged.who + own + i)
            squares = tl.where(lane == arm, tl.load(judged.square + own + i), 0.0)
            if POLICY >= HEDGE:
                taught = (lane < size.arms) & (arm >= 0)
                cell = (begin + i) * size.arms + lane
                squares = tl.load(said.estimate + cell, mask=taught, other=0.0)
            arms = credited(
                arms, lane, arm, tl.load(judged.ran + own + i), tl.load(judged.reward + own + i),
                squares, emitted, spent, discount,
            )  # fmt: skip
    return arms


SIZES = list(Sizes._fields)


@triton.jit(do_not_specialize=SIZES)
def bandit_update_kernel(
    tables, rounds, requests, rules, judged, said,
    batch: tl.int64, states: tl.int64, groups: tl.int64, arms: tl.int64, table_slots: tl.int64,
    slots: tl.int64, POLICY: tl.constexpr, REWARD: tl.constexpr, ARMS: tl.constexpr,
    ROUNDS: tl.constexpr,
):  # fmt: skip
    size = Sizes(batch, states, groups, arms, table_slots, slots)
    program = tl.program_id(0).to(tl.int64)
    group, slot = program // table_slots, program % table_slots
    lane = tl.arange(0, ARMS)
    known = read_arms(tables, size, group, slot, lane)
    learnt = learn(
        known, lane, rounds, requests, rules, tables.params, judged, said, size, group, slot,
        POLICY, REWARD, ROUNDS,
    )  # fmt: skip
    write_arms(tables, learnt, size, group, slot, lane)


def judged_shapes(programs: int) -> tuple:
    shape = (programs, ROUNDS)
    return 2 * ((shape, torch.int32),) + 2 * ((shape, torch.float64),)


def bandit_update(
    arm: Tensor,  # [R] i32, or [R, K] at token level
    rows: Tensor | None,
    draft_tokens: Tensor,  # [B, K] i64, for K alone
    length: Tensor,
    stats: Tensor,  # [B, K, 8] f32
    live: Tensor,
    stop_reason: Tensor,
    num_accepted: Tensor,
    overlap: Tensor | None,  # [B, K] f32
    status: Tensor,
    group: Tensor | None,
    params: Tensor,
    cost_ratio: Tensor,
    policy: int,
    reward: int,
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    arm_prob: Tensor | None,  # [R, A] f64 or [R, A, K]
    count: Tensor,  # [G, A] f64 or [G, A, K], and everything below but memory: accumulated
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,
    cost: Tensor,
    memory: Tensor | None,  # [R, A, 4] f32
) -> None:
    check_policy("bandit_update", policy, count, arm_prob)
    check_reward("bandit_update", reward, count)
    check_overlap("bandit_update", reward, overlap)
    check_rules("bandit_update", policy, rule_kind, memory)
    size = sizes(arm, rows, count, draft_tokens.shape[1])
    programs = size.groups * size.table_slots
    shapes = (*judged_shapes(programs), *said_shapes(policy, size.batch * size.arms))
    scratch = workspace(arm.device, 0, *shapes).arrays
    launch(
        bandit_update_kernel, programs,
        Tables(count, reward_sum, reward_sq, tokens, cost, params),
        Rounds(length, stats, stop_reason, num_accepted, overlap, status, cost_ratio, arm_prob),
        Requests(rows, group, live), Rules(rule_kind, rule_param, arm, memory),
        Judged(*scratch[:4]), Said(*scratch[4:]), *size,
        warps=WARPS, POLICY=policy if policy >= EXP3.value else FIXED.value, REWARD=reward,
        ARMS=triton.next_power_of_2(size.arms), ROUNDS=ROUNDS,
    )  # fmt: skip
