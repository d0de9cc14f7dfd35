"""What one more draft slot costs, in forwards of the target: what bandits with ``throughput`` are
told."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .engine import Drafter, draft_cost


class ForwardTime(NamedTuple):
    """Of a forward of n tokens, all rows together: max(1, fixed + token n); 1 is that of one.

    Few tokens wait for the weights; then each costs its arithmetic.
    """

    fixed: float
    token: float

    def of(self, tokens: int) -> float:
        return max(1.0, self.fixed + self.token * tokens)


CPU = ForwardTime(0.75, 0.04)  # two cores, docs/study.md
GPU = ForwardTime(0.0, 1 / 200)  # an H200 in bf16, by its data sheet; not measured


def verify_cost(batch: int, slots: int, device: torch.device) -> float:
    """One token more in every row of a verification, in forwards without drafts of as many rows.

    One number for drafts of every length: the mean up to ``slots``, where it is greatest.
    """
    time = CPU if device.type == "cpu" else GPU
    alone = time.of(batch)
    return (time.of(batch * (1 + slots)) - alone) / (slots * alone)


def slot_cost(drafter: Drafter, batch: int, slots: int, device: torch.device) -> float:
    """A step of the drafter, and a token more in every row of the verification."""
    return draft_cost(drafter) + verify_cost(batch, slots, device)
