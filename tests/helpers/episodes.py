"""Rounds of a bandit through raw operators, so that copies of the reference can be asked too."""

from __future__ import annotations

import torch
from torch import Tensor

from tapout_kernels import BanditState
from tapout_kernels.reference.bandit import POLICIES, REWARDS

from . import raw


def state_of(op: str, bandit: BanditState) -> dict[str, object]:
    """What an operator takes of the bandit itself; every other tensor it may take: none."""
    own = {**vars(bandit), "policy": POLICIES[bandit.policy], "reward": REWARDS[bandit.reward]}
    own["arm_prob"] = bandit.arm_prob if len(bandit.arm_prob) else None
    return {name: own.get(name) for name in raw.names(op)}


def choose(call: raw.Call, bandit: BanditState, batch: int = 1, **given: Tensor) -> Tensor:
    """[B] or [B, K] arms."""
    arm = torch.zeros(batch, *bandit.count.shape[2:], dtype=torch.int32)
    call("bandit_select", **{**state_of("bandit_select", bandit), "arm": arm, **given})
    return arm


def teach(
    call: raw.Call, bandit: BanditState, arm: Tensor, accepted: list[int], length: list[int],
    reason: int = 1, **given: object,
) -> None:  # fmt: skip
    """One finished round of every row."""
    batch = len(accepted)
    rounds = {
        "arm": arm, "draft_tokens": torch.zeros(batch, bandit.slots, dtype=torch.int64),
        "length": torch.tensor(length).int(), "live": torch.ones(batch, dtype=torch.bool),
        "stop_reason": torch.full((batch,), reason).int(),
        "stats": torch.zeros(batch, bandit.slots, 8),
        "num_accepted": torch.tensor(accepted).int(), "status": torch.zeros(batch).int(),
    }  # fmt: skip
    call("bandit_update", **{**state_of("bandit_update", bandit), **rounds, **given})
