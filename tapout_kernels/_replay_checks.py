"""What a replay is given must fit together: arrays, a bandit, drafters of a hedge."""

from __future__ import annotations

import numpy as np

from .bandit_state import BanditState
from .policies import HEDGES
from .stop_rules import StopRules


def require(
    name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...],
    least: float | None = None, most: float | None = None,
) -> None:  # fmt: skip
    if not isinstance(array, np.ndarray):
        raise TypeError(f"replay: {name} must be a NumPy array, got {type(array).__name__}")
    if array.dtype != dtype:
        raise TypeError(f"replay: {name} must be {np.dtype(dtype)}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"replay: {name} must be {list(shape)}, got {list(array.shape)}")
    if array.size and least is not None and not array.min() >= least:
        raise ValueError(f"replay: {name} must be at least {least}, got {array.min()}")
    if array.size and most is not None and not array.max() <= most:
        raise ValueError(f"replay: {name} must be at most {most}, got {array.max()}")


def check_bandit(bandit: BanditState, rules: StopRules, slots: int) -> None:
    for name, expected, got in (
        ("groups", 1, bandit.groups), ("arms", len(rules), bandit.arms),
        ("slots", slots, bandit.slots),
    ):  # fmt: skip
        if got != expected:
            raise ValueError(f"replay: bandit must have {expected} {name}, got {got}")
    if bandit.reward == "overlap":
        raise ValueError("replay: reward must be one that lengths decide, got 'overlap'")
    if bandit.count.device.type != "cpu":
        raise ValueError(f"replay: bandit must be on cpu, got {bandit.count.device}")


def check_drafters(bandit: BanditState, drafters: np.ndarray, horizon: int, slots: int) -> None:
    if bandit.policy not in HEDGES:
        raise ValueError(f"replay: horizon must be None with {bandit.policy}, got {horizon}")
    if not 1 <= horizon <= slots:
        raise ValueError(f"replay: horizon must be in [1, {slots}], got {horizon}")
    if drafters.shape[1] != 1 or len(np.unique(drafters)) != len(drafters):
        raise ValueError(
            "replay: drafters must be one an arm, each another, where horizon is given"
        )
