"""The bandit's memory: one table of counts and rewards for every group of requests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .backends import NotYetSupported
from .reference.bandit import ALPHA, NUM_PARAMS, POLICIES, POLICY_PARAM, REWARDS

_POLICY_DEFAULTS: dict[str, dict[str, float]] = {
    "ucb1": {"exploration": 1.0},
    "fixed": {"arm": 0},
}


@dataclass
class BanditState:
    """A multi-armed bandit whose every number is a device tensor.

    Parameters
    ----------
    count, reward_sum, reward_sq, tokens, cost : Tensor
        [G, A] float64: rounds, their rewards and squared rewards, tokens emitted, and cost in
        target forwards (``1 + cost_ratio * drafted``) of each arm of each group.
    calls : Tensor
        [1] int64, number of selections.
    cost_ratio : Tensor
        [1] float32, cost of one draft step in target forwards; the caller may overwrite it.
    params : Tensor
        [8] float64 of the policy and the reward.
    seed : Tensor
        [1] int64, key of policies that draw at random.
    policy, reward, level : str
    slots : int
    """

    count: Tensor
    reward_sum: Tensor
    reward_sq: Tensor
    tokens: Tensor
    cost: Tensor
    calls: Tensor
    cost_ratio: Tensor
    params: Tensor
    seed: Tensor
    policy: str
    reward: str
    level: str
    slots: int

    @classmethod
    def create(
        cls,
        arms: int,
        groups: int = 1,
        slots: int = 1,
        level: str = "sequence",
        policy: str = "ucb1",
        reward: str = "blend",
        seed: int = 0,
        device: torch.device | str | None = None,
        **policy_params: float,
    ) -> BanditState:
        """A bandit that has seen nothing.

        Parameters
        ----------
        arms, groups : int
            Arms, and independent tables (one for each request group or tenant).
        slots : int
            K of the proposals it learns from: the size of tables with an arm for each slot. At
            level ``sequence`` nothing depends on it; rewards divide by the proposal's own K.
        level : {"sequence"}
            One arm for a whole draft. ``"token"`` is not supported in this version.
        policy : {"ucb1", "fixed"}
            ``ucb1`` takes ``exploration`` (default 1, [Auer et al. 2002]); ``fixed`` takes
            ``arm`` (default 0).
        reward : {"blend", "simple"}
            ``simple``: accepted/K. ``blend``: ``alpha * accepted/K + (1 - alpha) *
            accepted/drafted``, ``alpha`` = 0.5 unless given. TapOut, arXiv 2511.02017.
        seed : int
        device : torch.device or str, optional

        Raises
        ------
        ValueError
            For an unknown policy, reward or parameter, or sizes below 1.

        Examples
        --------
        >>> BanditState.create(arms=3, slots=6).count.tolist()
        [[0.0, 0.0, 0.0]]
        """
        if min(arms, groups, slots) < 1:
            raise ValueError(
                f"BanditState: arms, groups, slots must be >= 1, got {arms}, {groups}, {slots}"
            )
        if level != "sequence":
            raise NotYetSupported(f"BanditState: level must be 'sequence' in 0.1, got {level!r}")
        _one_of("policy", policy, POLICIES)
        _one_of("reward", reward, REWARDS)

        def table() -> Tensor:
            return torch.zeros(groups, arms, dtype=torch.float64, device=device)

        return cls(
            count=table(), reward_sum=table(), reward_sq=table(), tokens=table(), cost=table(),
            calls=torch.zeros(1, dtype=torch.int64, device=device),
            cost_ratio=torch.zeros(1, dtype=torch.float32, device=device),
            params=_params(policy, arms, policy_params, device),
            seed=torch.tensor([seed], dtype=torch.int64, device=device),
            policy=policy, reward=reward, level=level, slots=slots,
        )  # fmt: skip

    @property
    def arms(self) -> int:
        return self.count.shape[1]


_LATER = (
    "ucb_tuned", "thompson_gaussian", "thompson_beta", "epsilon_greedy", "ucbspec", "exp3",
    "exp3spec", "hedge", "normalhedge", "metasd", "throughput",
)  # fmt: skip


def _one_of(what: str, name: str, table: dict[str, int]) -> None:
    if name in _LATER:
        raise NotYetSupported(f"BanditState: {what} is not supported in version 0.1, got {name!r}")
    if name not in table:
        raise ValueError(f"BanditState: {what} must be one of {', '.join(table)}, got {name!r}")


def _params(
    policy: str, arms: int, given: dict[str, float], device: torch.device | str | None
) -> Tensor:
    defaults = {"alpha": 0.5, **_POLICY_DEFAULTS[policy]}
    unknown = set(given) - set(defaults)
    if unknown:
        known = ", ".join(defaults)
        raise ValueError(f"BanditState: {policy} takes {known}, got {', '.join(sorted(unknown))}")
    merged = {**defaults, **given}
    if policy == "fixed" and merged["arm"] not in range(arms):
        raise ValueError(f"BanditState: arm must be in [0, {arms}), got {merged['arm']}")
    values = [0.0] * NUM_PARAMS
    values[ALPHA] = merged.pop("alpha")
    (values[POLICY_PARAM],) = merged.values()
    return torch.tensor(values, dtype=torch.float64, device=device)
