"""Reference ``bandit_select``: the serial definition, one row after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from .bandit import FIXED, POLICY_PARAM, groups_of, ucb1_score


def bandit_select(
    count: Tensor,  # [G, A] f64
    reward_sum: Tensor,  # [G, A] f64
    params: Tensor,  # [8] f64
    group: Tensor | None,  # [B] i32
    live: Tensor | None,  # [B] bool
    policy: int,
    calls: Tensor,  # [1] i64, advanced
    arm: Tensor,  # [B] i32, written for rows that take part
) -> None:
    calls.add_(1)
    index, takes_part = groups_of(group, arm, count.shape[0])
    index = index.long()
    if live is not None:
        takes_part = takes_part & live
    if policy == FIXED:
        arm.copy_(torch.where(takes_part, params[POLICY_PARAM].int(), arm))
        return
    pending = torch.zeros_like(count)
    rows = torch.zeros_like(count[:, 0]).index_add_(0, index, takes_part.double())
    t = count.sum(-1) + rows
    for b in range(arm.shape[0]):
        g = index[b : b + 1]
        score = ucb1_score(count[g], pending[g], reward_sum[g], t[g], params[POLICY_PARAM])
        best = score.argmax(-1)
        arm[b : b + 1] = torch.where(takes_part[b], best.int(), arm[b])
        pending[g, best] += takes_part[b].double()
