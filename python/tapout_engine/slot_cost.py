"""What one more draft slot costs, in forwards of the target: what bandits with ``throughput`` are
told."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tapout_kernels import cpu_isa

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
FLOAT32 = ForwardTime(0.65, 0.093)
NARROW = {"avx512": ForwardTime(0.25, 0.155), "avx512_bf16": ForwardTime(0.7, 0.082)}
NARROW_ELSEWHERE = ForwardTime(0.2, 0.2)  # AVX2
GPU = ForwardTime(0.0, 1 / 200)  # an H200 in bf16, by its data sheet; not measured


def forward_time(target: Target) -> ForwardTime:
    """By where the target is, and its dtype."""
    if target.device.type != "cpu":
        return GPU
    if target.dtype == torch.float32:
        return FLOAT32
    isa = cpu_isa() or ""
    if target.dtype == torch.float16:  # not multiplied in pairs
        isa = isa.removesuffix("_bf16")
    return NARROW.get(isa, NARROW_ELSEWHERE)


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
