"""Reference ``bandit_update``: credit each row's arm, then update its stop rule's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .bandit import ALPHA, groups_of, reward_of
from .stats import OK
from .stop import ADAEDL, adaedl_memory


def bandit_update(
    arm: Tensor,  # [B] i32
    draft_tokens: Tensor,  # [B, K] i64, for K alone
    length: Tensor,  # [B] i32
    live: Tensor,  # [B] bool
    num_accepted: Tensor,  # [B] i32
    status: Tensor,  # [B] i32
    group: Tensor | None,  # [B] i32
    params: Tensor,  # [8] f64
    cost_ratio: Tensor,  # [1] f32
    reward: int,
    rule_kind: Tensor | None,  # [A] i32
    rule_param: Tensor | None,  # [A, 4] f32
    count: Tensor,  # [G, A] f64, and everything below: accumulated
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,
    cost: Tensor,
    memory: Tensor | None,  # [B, A, 4] f32
) -> None:
    groups, arms = count.shape
    slots = draft_tokens.shape[1]
    group_index, known = groups_of(group, arm, groups)
    learns = live & (status == OK) & known & (arm >= 0) & (arm < arms)
    safe_arm = torch.where(learns, arm, 0).long()
    cell = group_index.long() * arms + safe_arm  # flat index into [G, A]
    r = reward_of(reward, num_accepted, length, slots, params[ALPHA])

    def accumulate(table: Tensor, values: Tensor) -> None:
        table.view(-1).index_add_(0, cell, torch.where(learns, values, 0.0))

    accumulate(count, torch.ones_like(r))
    accumulate(reward_sum, r)
    accumulate(reward_sq, r * r)
    accumulate(tokens, num_accepted.double() + 1)
    accumulate(cost, 1 + cost_ratio.double() * length)
    if memory is not None and rule_kind is not None:
        rows = torch.arange(arm.shape[0], device=arm.device)
        ran = learns & (length > 0) & (rule_kind[safe_arm] == ADAEDL)
        old = memory[rows, safe_arm]
        new = adaedl_memory(old.double(), num_accepted, length, slots).float()
        memory[rows, safe_arm] = torch.where(ran[:, None], new, old)
