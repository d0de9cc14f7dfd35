"""Bandits over arms: which stop rule drafts next (TapOut, arXiv 2511.02017).

UCB1 (Auer et al. 2002): argmax mean + c sqrt(2 ln t / n), every arm once first.  A pull made in
this call but not yet rewarded counts in n (the bonus), never in the mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FIXED, UCB1 = range(2)
SIMPLE, BLEND = range(2)
POLICIES = {"fixed": FIXED, "ucb1": UCB1}
REWARDS = {"simple": SIMPLE, "blend": BLEND}
NUM_PARAMS = 8
ALPHA, POLICY_PARAM = 0, 1  # columns of params


def ucb1_score(
    count: Tensor, pending: Tensor, reward_sum: Tensor, t: Tensor, exploration: Tensor
) -> Tensor:
    """Score of every arm; +inf for an arm never pulled."""
    pulls = count + pending
    mean = torch.where(count > 0, reward_sum / count.clamp(min=1e-300), 0.0)
    bonus = exploration * (2 * t.clamp(min=1).log() / pulls.clamp(min=1e-300)).sqrt()
    return torch.where(pulls > 0, mean + bonus, math.inf)


def reward_of(
    reward: int, num_accepted: Tensor, length: Tensor, slots: int, alpha: Tensor
) -> Tensor:
    """[R] f64 in [0, 1]: n_acc/K, or blended with n_acc/n_draft; 0 when nothing was drafted."""
    accepted = num_accepted.double()
    simple = accepted / slots
    if reward == BLEND:
        simple = alpha * simple + (1 - alpha) * accepted / length.clamp(min=1)
    return torch.where(length > 0, simple, 0.0)


def groups_of(group: Tensor | None, rows: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Each row's group index (0 where it has none) and whether it has one."""
    if group is None:
        return torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
    known = (group >= 0) & (group < groups)
    return torch.where(known, group, 0).long(), known
