"""Policies that draw an arm from weights: EXP3, Auer et al. 2002 (EXP3Spec of arXiv 2505.15141),
Hedge, and NormalHedge, Chaudhuri et al. 2009 (both over drafters: Not-a-Bandit, 2510.20064).

The distribution of a row's draw is kept in ``arm_prob`` until its round is learnt from: an estimate
divided by any other one is biased.  Estimated losses (NormalHedge: regrets) are kept where
other policies keep squared rewards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bandit import EXP3, HEDGE, NORMALHEDGE, Noise, by_slot, first_draw, in_order_sum

HEDGES = (HEDGE, NORMALHEDGE)  # a round tells them of every arm
WEIGHTED = (EXP3, *HEDGES)
NEWTON_STEPS = 12  # from above, at a convex function: as exact as doubles are


def require_prob(op: str, policy: int, arm_prob: Tensor | None) -> None:
    if policy in WEIGHTED and arm_prob is None:
        raise RuntimeError(f"{op}: arm_prob must be a Tensor with this policy, got None")


def exponential_weights(policy: int, count: Tensor, loss: Tensor) -> Tensor:
    """exp(-eta L), shifted so that the largest is 1; t = 1 + pulls, eta = sqrt(ln A / t).

    EXP3 has t A for t: it sees one arm a round.
    """
    arms = count.shape[-1]
    spread = arms if policy == EXP3 else 1
    rate = (math.log(arms) / ((1 + in_order_sum(count)[..., None]) * spread)).sqrt()
    return (-rate * (loss - loss.amin(-1, keepdim=True))).exp()


def normal_weights(regret: Tensor) -> Tensor:
    """[R]+ exp([R]+^2 / 2c), c the root of mean exp([R]+^2 / 2c) = e; 1 where no R is positive.

    s = max R^2 / 2c solves mean exp(s y) = e for y = ([R]+ / max R)^2; it is in [1, 1 + ln A].
    """
    most = regret.amax(-1, keepdim=True)
    some = most > 0
    share = torch.where(some, regret.clamp(min=0) / torch.where(some, most, 1.0), 1.0)
    square, arms = share * share, regret.shape[-1]
    scale = torch.full_like(most, 1 + math.log(arms))
    for _ in range(NEWTON_STEPS):
        terms = (scale * square).exp()
        total, slope = in_order_sum(terms), in_order_sum(square * terms)
        scale = scale - (((total / arms).log() - 1) * total / slope)[..., None]
    return share * (scale * (square - 1)).exp()


def arm_probabilities(policy: int, count: Tensor, reward_sq: Tensor, epsilon: Tensor) -> Tensor:
    """[G, S, A] from tables [G, A] or [G, A, K]: (1 - epsilon) w / sum w + epsilon / A."""
    if policy == NORMALHEDGE:
        weight = normal_weights(by_slot(reward_sq))
    else:
        weight = exponential_weights(policy, by_slot(count), by_slot(reward_sq))
    share = weight / in_order_sum(weight)[..., None]
    return (1 - epsilon) * share + epsilon / weight.shape[-1]


def drawn_by_weight(prob: Tensor, uniform: Tensor) -> Tensor:
    """[B, S] arms: ``uniform`` through the inverse CDF; never an arm of probability 0."""
    reached = prob.cumsum(-1)
    above = uniform[..., None] * reached[..., -1:] < reached
    first = torch.where(above.any(-1), above.int().argmax(-1), prob.shape[-1])
    arms = torch.arange(prob.shape[-1], device=prob.device)
    return torch.minimum(first, torch.where(prob > 0, arms, 0).amax(-1))


def draw(prob: Tensor, noise: Noise) -> Tensor:
    """[B, S] arms of rows that draw from ``prob`` [B, S, A]."""
    word = first_draw(*prob.shape[1:], prob.device)[:, 0]
    return drawn_by_weight(prob, noise.uniforms(word)[0])


def chance_of(arm_prob: Tensor, row: Tensor, arm: Tensor) -> Tensor:
    """[B, S]: with what probability each row's arm was drawn; 0 for an arm that is none."""
    prob = arm_prob.view(*arm_prob.shape[:2], -1)[row]  # [B, A, S]
    known = (arm >= 0) & (arm < prob.shape[1])
    chance = prob.gather(1, torch.where(known, arm, 0)[:, None])[:, 0]
    return torch.where(known, chance, 0.0)


def loss_estimate(reward: Tensor, chance: Tensor) -> Tensor:
    """(1 - reward) / chance, 0 where nothing was drawn: unbiased over the draw."""
    return torch.where(chance > 0, (1 - reward) / torch.where(chance > 0, chance, 1.0), 0.0)
