"""Policies that draw an arm from weights: EXP3, Auer et al. 2002 (EXP3Spec of arXiv 2505.15141).

The distribution of a row's draw is kept in ``arm_prob`` until its round is learnt from: an estimate
divided by any other one is biased.  Estimated losses are kept where other policies keep squared
rewards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bandit import EXP3, Noise, by_slot, first_draw, in_order_sum

WEIGHTED = (EXP3,)


def require_prob(op: str, policy: int, arm_prob: Tensor | None) -> None:
    if policy in WEIGHTED and arm_prob is None:
        raise RuntimeError(f"{op}: arm_prob must be a Tensor with this policy, got None")


def exponential_weights(count: Tensor, loss: Tensor) -> Tensor:
    """exp(-eta L), eta = sqrt(ln A / (t A)), t = 1 + pulls; shifted so that the largest is 1."""
    arms = count.shape[-1]
    rate = (math.log(arms) / ((1 + in_order_sum(count)[..., None]) * arms)).sqrt()
    return (-rate * (loss - loss.amin(-1, keepdim=True))).exp()


def arm_probabilities(count: Tensor, reward_sq: Tensor, epsilon: Tensor) -> Tensor:
    """[G, S, A] from tables [G, A] or [G, A, K]: (1 - epsilon) w / sum w + epsilon / A."""
    weight = exponential_weights(by_slot(count), by_slot(reward_sq))
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
