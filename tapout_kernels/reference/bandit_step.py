"""Reference ``bandit_step``: learn from a finished round, then choose the arms of the next one."""

from __future__ import annotations

from torch import Tensor

from .bandit_select import bandit_select
from .bandit_update import bandit_update


def bandit_step(
    arm: Tensor,  # [R] i32, or [R, K] at token level
    rows: Tensor | None,  # [B] i32
    draft_tokens: Tensor,  # [B, K] i64, for K alone
    length: Tensor,  # [B] i32
    stats: Tensor,  # [B, K, 8] f32
    live: Tensor,  # [B] bool, of the finished round
    stop_reason: Tensor,  # [B] i32
    num_accepted: Tensor,  # [B] i32
    overlap: Tensor | None,  # [B, K] f32
    status: Tensor,  # [B] i32
    group: Tensor | None,  # [B] i32
    params: Tensor,  # [8] f64
    cost_ratio: Tensor,  # [1] f32
    rule_kind: Tensor | None,  # [A] i32
    rule_param: Tensor | None,  # [A, 4] f32
    seed: Tensor,  # [1] i64
    next_live: Tensor | None,  # [B] bool, of the coming round
    policy: int,
    reward: int,
    count: Tensor,  # [G, A] f64 or [G, A, K], and the next two: accumulated
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,  # [G, A] f64, and the next: accumulated
    cost: Tensor,
    memory: Tensor | None,  # [R, A, 4] f32
    calls: Tensor,  # [1] i64, advanced
    next_arm: Tensor,  # like arm, and may be it; written for rows that take part
    arm_prob: Tensor | None,  # [R, A] f64 or [R, A, K]: of the finished round, then of the next
) -> None:
    bandit_update(
        arm, rows, draft_tokens, length, stats, live, stop_reason, num_accepted, overlap, status,
        group, params, cost_ratio, policy, reward, rule_kind, rule_param, arm_prob, count,
        reward_sum, reward_sq, tokens, cost, memory,
    )  # fmt: skip
    bandit_select(
        count, reward_sum, reward_sq, tokens, cost, params, seed, group, next_live, rows, policy,
        reward, draft_tokens.shape[1], calls, next_arm, arm_prob,
    )  # fmt: skip
