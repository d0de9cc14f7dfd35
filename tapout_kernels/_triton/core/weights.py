"""Policies that draw an arm from weights, as ``csrc/core/weights.h`` has them.

    exp3   w_a = exp(-eta L_a), L_a = sum of 1{a drawn} (1 - reward) / arm_prob_a,
           eta = sqrt(ln A / (t A)), t = 1 + pulls   (Auer et al. 2002; BanditSpec, 2505.15141)

    hedge  w_a = exp(-eta L_a), L_a = sum of f^_a (hedge.py), eta = sqrt(ln A / t)
    normalhedge  w_a = [R_a]+ exp([R_a]+^2 / 2c), c the root of mean exp([R]+^2 / 2c) = e, all equal
           where no R is positive; R_a = sum of the weights' f^ less f^_a   (Chaudhuri et al. 2009)

An arm is drawn with (1 - epsilon) w_a / sum w + epsilon / A; lanes are arms, L and R are in
``reward_sq``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .bandit import EXP3, NORMALHEDGE

NEWTON_STEPS = tl.constexpr(12)


@triton.jit
def exponential_weights(arms, lane, number, POLICY: tl.constexpr):
    """Of ``number`` arms; shifted so that the largest is 1."""
    known = lane < number
    size = number.to(tl.float64)
    rounds = 1.0 + tl.sum(arms.count, 0)
    if POLICY == EXP3:
        rounds = rounds * size
    rate = tl.sqrt(tl.log(size) / rounds)
    least = tl.min(tl.where(known, arms.reward_sq, float("inf")), 0)
    return tl.where(known, tl.exp(-rate * (arms.reward_sq - least)), 0.0)


@triton.jit
def normal_weights(arms, lane, number):
    """s = max R^2 / 2c by Newton's method from above: mean exp(s y) = e, y = ([R]+ / max R)^2."""
    known = lane < number
    size = number.to(tl.float64)
    regret = tl.where(known, tl.maximum(arms.reward_sq, 0.0), 0.0)
    most = tl.max(regret, 0)
    share = tl.where(most > 0.0, regret / tl.where(most > 0.0, most, 1.0), 1.0)
    square = share * share
    scale = 1.0 + tl.log(size)
    for _ in range(NEWTON_STEPS):
        term = tl.where(known, tl.exp(scale * square), 0.0)
        total, slope = tl.sum(term, 0), tl.sum(square * term, 0)
        scale -= (tl.log(total / size) - 1.0) * total / slope
    return tl.where(known, share * tl.exp(scale * (square - 1.0)), 0.0)


@triton.jit
def arm_probabilities(arms, lane, number, epsilon, POLICY: tl.constexpr):
    if POLICY == NORMALHEDGE:
        weight = normal_weights(arms, lane, number)
    else:
        weight = exponential_weights(arms, lane, number, POLICY)
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
