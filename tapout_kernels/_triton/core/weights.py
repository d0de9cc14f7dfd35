"""Policies that draw an arm from weights, as ``csrc/core/weights.h`` has them.

    exp3   w_a = exp(-eta L_a), L_a = sum of 1{a drawn} (1 - reward) / arm_prob_a,
           eta = sqrt(ln A / (t A)), t = 1 + pulls   (Auer et al. 2002; BanditSpec, 2505.15141)

An arm is drawn with (1 - epsilon) w_a / sum w + epsilon / A; lanes are arms, L is in ``reward_sq``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exponential_weights(arms, lane, number):
    """Of ``number`` arms; shifted so that the largest is 1."""
    known = lane < number
    size = number.to(tl.float64)
    rate = tl.sqrt(tl.log(size) / ((1.0 + tl.sum(arms.count, 0)) * size))
    least = tl.min(tl.where(known, arms.reward_sq, float("inf")), 0)
    return tl.where(known, tl.exp(-rate * (arms.reward_sq - least)), 0.0)


@triton.jit
def arm_probabilities(arms, lane, number, epsilon):
    weight = exponential_weights(arms, lane, number)
    mixed = (1.0 - epsilon) * (weight / tl.sum(weight, 0)) + epsilon / number.to(tl.float64)
    return tl.where(lane < number, mixed, 0.0)


@triton.jit
def drawn_by_weight(prob, lane, uniform, ARMS: tl.constexpr):
    """The arm of every uniform through the inverse CDF; never one of probability 0."""
    reached = tl.cumsum(prob, 0)
    target = uniform * tl.max(reached, 0)
    above = target[:, None] < reached[None, :]
    first = tl.min(tl.where(above, lane[None, :], ARMS), 1)
    last = tl.max(tl.where(prob > 0.0, lane, 0), 0)
    return tl.minimum(first, last)
