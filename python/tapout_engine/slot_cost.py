"""What one more draft slot costs, in forwards of the target: what bandits with ``throughput`` are
told."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .engine import Drafter, Target, draft_cost


class ForwardTime(NamedTuple):
    """Of a forward of n tokens, all rows together: max(1, fixed + token n); 1 is that of one.

    Few tokens wait for the weights; then each costs its arithmetic.
    """

    fixed: float
    token: float

    def of(self, tokens: int) -> float:
        return max(1.0, self.fixed + self.token * tokens)


# Two cores, in float32 and in two bytes a weight, which are read in half the time: docs/kernels.md.
AVX2 = (ForwardTime(0.65, 0.093), ForwardTime(0.35, 0.205))
AVX512 = (ForwardTime(0.65, 0.047), ForwardTime(0.35, 0.1025))  # twice the arithmetic; not measured
GPU = ForwardTime(0.0, 1 / 200)  # an H200 in bf16, by its data sheet; not measured


def forward_time(target: Target) -> ForwardTime:
    """By where the target is, and its dtype."""
    if target.device.type != "cpu":
        return GPU
    times = AVX512 if torch.backends.cpu.get_cpu_capability() == "AVX512" else AVX2
    return times[target.dtype != torch.float32]


def verify_cost(batch: int, slots: int, target: Target) -> float:
    """One token more in every row of a verification, in forwards without drafts of as many rows.

    One number for drafts of every length: the mean up to ``slots``, where it is greatest.
    """
    time = forward_time(target)
    alone = time.of(batch)
    return (time.of(batch * (1 + slots)) - alone) / (slots * alone)


def slot_cost(drafter: Drafter, batch: int, slots: int, target: Target) -> float:
    """A step of the drafter, and a token more in every row of the verification."""
    return draft_cost(drafter) + verify_cost(batch, slots, target)
