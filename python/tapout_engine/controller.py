"""The controller of a decoder: the table of arms and the bandit's memory. It has no formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import tapout_kernels as tk

from .arms import TAPOUT_ARMS, Arm


@dataclass(frozen=True)
class ArmReport:
    """How often an arm was played and its mean reward (0 if never)."""

    label: str
    pulls: int
    value: float


class Controller:
    """Stop rules, their per-request memory, and the bandit that picks among them.

    The bandit persists over requests until :meth:`reset`; the rules' memory belongs to a batch.
    """

    def __init__(
        self,
        arms: Sequence[Arm] = TAPOUT_ARMS,
        slots: int = 8,
        policy: str = "ucb1",
        reward: str = "blend",
        device: torch.device | str | None = None,
        **policy_params: float,
    ):
        self.slots = slots
        self.device = device
        self.rules = tk.StopRules(*arms, device=device)
        self._policy = {"policy": policy, "reward": reward, **policy_params}
        self.reset()

    def reset(self) -> None:
        """Forget every pull, and count requests from 0 again."""
        self.bandit = tk.BanditState.create(
            len(self.rules), slots=self.slots, device=self.device, **self._policy
        )
        self.requests = 0

    def admit(self, seeds: Sequence[int]) -> list[int]:
        """Begin a batch; returns the random key of each request.

        A bandit remembers what noise did, so no two requests it sees may share a key.
        """
        first, self.requests = self.requests, self.requests + len(seeds)
        self.state = tk.StopState.of(len(seeds), self.rules, device=self.device)
        return [tk.mix64(seed, first + i) for i, seed in enumerate(seeds)]

    def select(self, live: Tensor, backend: str | None = None) -> None:
        """Pick an arm for every live row, into ``state.arm``."""
        tk.bandit_select(self.bandit, live=live, out=self.state.arm, backend=backend)

    def update(
        self, proposal: tk.Proposal, verdict: tk.Verdict, backend: str | None = None
    ) -> None:
        """Learn from a verified round."""
        tk.bandit_update(
            self.bandit, self.state.arm, proposal, verdict,
            rules=self.rules, state=self.state, backend=backend,
        )  # fmt: skip

    def report(self) -> list[ArmReport]:
        """Pulls and mean reward of every arm."""
        pulls = self.bandit.count[0].tolist()
        rewards = self.bandit.reward_sum[0].tolist()
        return [
            ArmReport(self.rules.label(arm), int(n), total / n if n else 0.0)
            for arm, (n, total) in enumerate(zip(pulls, rewards, strict=True))
        ]
