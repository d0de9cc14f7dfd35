"""Reference ``bandit_select``: the serial definition, one row after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from . import bandit, weights
from .bandit import Arms, Noise
from .rows import StateRows, write_rows


def bandit_select(
    count: Tensor,  # [G, A] f64, or [G, A, K] at token level, and the next two
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,  # [G, A] f64
    cost: Tensor,  # [G, A] f64
    params: Tensor,  # [8] f64
    seed: Tensor,  # [1] i64
    group: Tensor | None,  # [B] i32
    live: Tensor | None,  # [B] bool
    rows: Tensor | None,  # [B] i32
    policy: int,
    reward: int,
    slots: int,
    calls: Tensor,  # [1] i64, advanced
    arm: Tensor,  # [R] i32 or [R, K], written for rows that take part
    arm_prob: Tensor | None,  # [R, A] f64 or [R, A, K], and so is this
) -> None:
    weights.require_prob("bandit_select", policy, arm_prob)
    state = StateRows(rows, arm.shape[0], arm.device)
    index, known = bandit.groups_of(group, state.index, count.shape[0])
    takes_part = known & state.known
    if live is not None:
        takes_part = takes_part & live
    param = params[bandit.POLICY_PARAM]
    arms = bandit.arms_of(count, reward_sum, reward_sq, tokens, cost, reward, slots)
    if policy in (bandit.UCB1, bandit.UCB_TUNED, bandit.UCBSPEC):
        picked = _with_pending_pulls(arms, param, policy, index, takes_part)
    elif policy in weights.WEIGHTED:
        prob = weights.arm_probabilities(policy, count, reward_sq, param)[index]
        picked = weights.draw(prob, Noise(seed, calls, len(index)))
        kept = prob.transpose(1, 2).reshape(-1, *arm_prob.shape[1:])
        write_rows(arm_prob, state.index, takes_part, kept)
    else:
        picked = _each_on_its_own(arms.of(index), param, policy, Noise(seed, calls, len(index)))
    write_rows(arm, state.index, takes_part, picked.view(-1, *arm.shape[1:]).to(arm.dtype))
    calls.add_(1)


def _with_pending_pulls(
    arms: Arms, param: Tensor, policy: int, index: Tensor, takes_part: Tensor
) -> Tensor:
    """[B, S] arms: rows choose in order; a pull of this call counts in n, not in the mean."""
    ones = takes_part.double()
    rows = torch.zeros_like(arms.count[:, 0, 0]).index_add_(0, index, ones)
    log_t = (bandit.in_order_sum(arms.count) + rows[:, None]).clamp(min=1).log()[..., None]
    pulls = arms.count.clone()
    picked = []
    for b in range(len(index)):
        g = index[b : b + 1]
        n, mean, variance = pulls[g], arms.mean[g], arms.variance[g]
        if policy == bandit.UCB1:
            score = bandit.ucb1_score(mean, n, log_t[g], exploration=param)
        elif policy == bandit.UCBSPEC:
            score = bandit.ucbspec_score(mean, n, log_t[g], delta=param)
        else:
            score = bandit.ucb_tuned_score(mean, variance, n, log_t[g])
        best = score.argmax(-1, keepdim=True)
        pulls[g] = n.scatter_add(-1, best, ones[b].expand(best.shape))
        picked.append(best[..., 0])
    return torch.cat(picked)


def _each_on_its_own(arms: Arms, param: Tensor, policy: int, noise: Noise) -> Tensor:
    """[B, S] arms drawn from the state as it is."""
    if policy == bandit.FIXED:
        return bandit.fixed_arm(param).expand(arms.count.shape[:-1])
    word = bandit.first_draw(*arms.count.shape[1:], arms.count.device)
    if policy == bandit.EPSILON_GREEDY:
        return bandit.epsilon_greedy(arms, param, noise, word)
    if policy == bandit.THOMPSON_GAUSSIAN:
        return bandit.thompson_gaussian(arms, param, noise, word).argmax(-1)
    return bandit.thompson_beta(arms, noise, word).argmax(-1)
