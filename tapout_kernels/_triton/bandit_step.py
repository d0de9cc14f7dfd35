"""``bandit_step``: a finished round is learnt from and the next arms are chosen, in one launch.

The program of a group and slot learns its tables, then chooses from them without reading them
again.  At token level the program of slot 0 looks up what another slot's arm was: new arms, which
may go where the old ones are, wait in the workspace until every program is done.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .bandit_select import (
    DRAWING,
    WARPS,
    choice_constants,
    choice_shapes,
    choose,
)
from .bandit_update import ROUNDS, Judged, Rounds, judged_shapes, learn
from .choice import Choice, finish
from .hedge import Said, check_rules, said_shapes
from .launch import launch, workspace
from .params import Rules
from .tables import (
    Requests,
    Sizes,
    Tables,
    check_overlap,
    check_policy,
    check_reward,
    read_arms,
    sizes,
    write_arms,
)

SIZES = [*Sizes._fields, "longest"]


@triton.jit(do_not_specialize=SIZES)
def bandit_step_kernel(
    tables, rounds, requests, rules, judged, said, next_requests, choice,
    batch: tl.int64, states: tl.int64, groups: tl.int64, arms: tl.int64, table_slots: tl.int64,
    slots: tl.int64, longest: tl.int64, POLICY: tl.constexpr, REWARD: tl.constexpr,
    ARMS: tl.constexpr, ROUNDS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    DRAWS: tl.constexpr,
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
    choose(
        learnt, lane, next_requests, tables.params, choice, size, group, slot, longest, POLICY,
        REWARD, ARMS, ROWS, TILE, DRAWS,
    )  # fmt: skip
    finish(next_requests, choice, size, ROWS)


def bandit_step(
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
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    seed: Tensor,
    next_live: Tensor | None,
    policy: int,
    reward: int,
    count: Tensor,  # [G, A] f64 or [G, A, K], and everything below: written
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,
    cost: Tensor,
    memory: Tensor | None,
    calls: Tensor,
    next_arm: Tensor,  # like arm, and may be it
    arm_prob: Tensor | None,  # [R, A] f64 or [R, A, K]: of the finished round, then of the next
) -> None:
    check_policy("bandit_step", policy, count, arm_prob)
    check_reward("bandit_step", reward, count)
    check_overlap("bandit_step", reward, overlap)
    check_rules("bandit_step", policy, rule_kind, memory)
    size = sizes(arm, rows, count, draft_tokens.shape[1])
    programs, staged = size.groups * size.table_slots, count.dim() == 3
    learning = (*judged_shapes(programs), *said_shapes(policy, size.batch * size.arms))
    shapes = (*learning, *choice_shapes(size, policy, staged))
    scratch = workspace(arm.device, 1, *shapes)
    waiting, scores, ranked = scratch.arrays[6:]
    ticket = scratch.tickets if staged or policy in DRAWING else None
    launch(
        bandit_step_kernel, programs, Tables(count, reward_sum, reward_sq, tokens, cost, params),
        Rounds(length, stats, stop_reason, num_accepted, overlap, status, cost_ratio, arm_prob),
        Requests(rows, group, live), Rules(rule_kind, rule_param, arm, memory),
        Judged(*scratch.arrays[:4]), Said(*scratch.arrays[4:6]), Requests(rows, group, next_live),
        Choice(
            next_arm, arm_prob, waiting if staged else None, scores, ranked, seed, calls, ticket
        ),
        *size, warps=WARPS, ROUNDS=ROUNDS, **choice_constants(size, policy, reward),
    )  # fmt: skip
