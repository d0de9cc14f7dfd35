"""What one draft says of every stop rule, as ``csrc/core/hedge.h`` has it (2510.20064).

stop_i   where rule i would have stopped on the drafted prefix, by its own memory; one more where
         it would have gone on, at most K
f_i      1 - reward of min(n_acc, stop_i) accepted of min(stop_i, n_draft) drafts
f^_i   = f_i 1{seen_i} / sum_j arm_prob_j 1{stop_j >= stop_i}, seen_i: stop_i <= n_draft, or the
         draft was cut by something that is no rule
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.bandit import (
    ALPHA,
    HEDGE,
    NORMALHEDGE,
    OVERLAP,
    POLICY_PARAM,
    bandit_reward,
    overlap_reward,
)
from .core.stats import NUM_STATS
from .core.stop import PRE_DRAFT, RULE, arm_stops_after, arm_stops_before_drafting
from .params import Pointer
from .tables import group_of


class Said(NamedTuple):
    """[B, A] of the finished rounds, of policies that learn of every rule."""

    stop: Pointer  # i32
    estimate: Pointer  # f64


@triton.jit
def would_stop(rules, stats, size, row, arm, drafted):
    stopped = arm_stops_before_drafting(rules, size.arms, arm, row)
    slot = drafted * 0
    while (slot < drafted) & (stopped == 0):
        stopped = arm_stops_after(rules, size.arms, arm, row, slot, stats)
        slot += 1
    return tl.where(stopped, slot, tl.minimum(drafted + 1, size.slots))


@triton.jit
def loss_estimates(
    lane, stop, prob, known, params, size, rounds, b, drafted, POLICY: tl.constexpr,
    REWARD: tl.constexpr,
):  # fmt: skip
    """[ARMS] of round ``b``; lanes are arms."""
    chance = prob * 0.0
    for arm in range(size.arms):  # first to last, as the definition: regrets cancel
        as_long = tl.sum(tl.where(lane == arm, stop, 0), 0) >= stop
        chance += tl.where(as_long, tl.sum(tl.where(lane == arm, prob, 0.0), 0), 0.0)
    own = tl.minimum(stop.to(tl.int64), drafted)
    if REWARD == OVERLAP:
        own_draft = rounds.overlap + b * size.slots + lane * 0  # the same for every lane
        reward = overlap_reward(own_draft, own, size.slots, known)
    else:
        slots, alpha = size.slots.to(tl.float64), tl.load(params + ALPHA)
        accepted = tl.load(rounds.num_accepted + b).to(tl.int64)
        taken = tl.minimum(accepted, own).to(tl.float64)
        reward = bandit_reward(taken, own.to(tl.float64), slots, alpha, REWARD)
    reason = tl.load(rounds.stop_reason + b)
    cut = (reason != RULE) & (reason != PRE_DRAFT)
    seen = (cut | (stop <= drafted)) & known & (chance > 0.0)
    estimate = tl.where(seen, (1.0 - reward) / tl.where(seen, chance, 1.0), 0.0)
    if POLICY == NORMALHEDGE:
        epsilon = tl.load(params + POLICY_PARAM)
        weight = (prob - epsilon / size.arms.to(tl.float64)) / (1.0 - epsilon)
        lost, mean = weight * estimate, epsilon * 0.0
        for arm in range(size.arms):
            mean += tl.sum(tl.where(lane == arm, lost, 0.0), 0)
        estimate = mean - estimate
    return estimate


@triton.jit
def ask_rules(
    rules, rounds, requests, params, said, size, group, lane, POLICY: tl.constexpr,
    REWARD: tl.constexpr,
):  # fmt: skip
    """What the group's rounds say of every rule; before a memory moves."""
    known = lane < size.arms
    for b in range(size.batch):
        row, own = group_of(requests, size, b)
        if own == group:
            drafted = tl.load(rounds.length + b).to(tl.int64)
            drafted = tl.minimum(tl.maximum(drafted, 0), size.slots)
            stats = rounds.stats + b * size.slots * NUM_STATS
            for arm in range(size.arms):
                own_stop = would_stop(rules, stats, size, row, arm, drafted)
                tl.store(said.stop + b * size.arms + arm, own_stop.to(tl.int32))
            tl.debug_barrier()
            stop = tl.load(said.stop + b * size.arms + lane, mask=known, other=0)
            prob = tl.load(rounds.arm_prob + row * size.arms + lane, mask=known, other=0.0)
            estimate = loss_estimates(
                lane, stop, prob, known, params, size, rounds, b, drafted, POLICY, REWARD
            )
            tl.store(said.estimate + b * size.arms + lane, estimate, mask=known)


def said_shapes(policy: int, entries: int) -> tuple:
    entries = entries if policy >= HEDGE.value else 0
    return ((entries,), torch.int32), ((entries,), torch.float64)


def check_rules(op: str, policy: int, kind: Tensor | None, memory: Tensor | None) -> None:
    for name, value in (("rule_kind", kind), ("memory", memory)):
        if policy >= HEDGE.value and value is None:
            raise RuntimeError(f"{op}: {name} must be a Tensor with this policy, got None")
