"""The controller of a decoder: the table of arms and the bandit's memory. It has no formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels.policies import HEDGES

from .arms import TAPOUT_ARMS, Arm
from .errors import EngineError


@dataclass(frozen=True)
class ArmReport:
    """How often an arm was played and its mean reward (0 if never)."""

    label: str
    pulls: int
    value: float


class Controller:
    """Stop rules, their per-request memory, and the bandit that picks among them.

    The bandit persists over requests until :meth:`reset`; the rules' memory belongs to a batch.

    Parameters
    ----------
    arms : sequence of Arm
        Stop rules, and the drafters they are for where there are several.
    slots : int
        K, the longest draft.
    policy, reward, **policy_params
        Of :meth:`tapout_kernels.BanditState.create`. Only ``throughput`` knows what drafting
        costs: where arms differ in their drafter, take it.
    device : torch.device or str, optional
    """

    def __init__(
        self,
        arms: Sequence[Arm] = TAPOUT_ARMS,
        slots: int = 8,
        policy: str = "ucb1",
        reward: str | None = None,
        device: torch.device | str | None = None,
        **policy_params: float,
    ):
        self.slots = slots
        self.device = device
        self.rules = tk.StopRules(*(arm[:2] for arm in arms), device=device)
        self.drafters = [arm[2] if len(arm) > 2 else () for arm in arms]
        self.full_information = False  # a hedge over drafters, which learns by `observe`
        self._policy = {"policy": policy, "reward": reward, **policy_params}
        self.reset()

    def reset(self) -> None:
        """Forget every pull, and count requests from 0 again."""
        self.bandit = tk.BanditState.create(
            len(self.rules), slots=self.slots, device=self.device, rows=1, **self._policy
        )
        self.rounds = replace(
            self.bandit.for_rows(0), policy="fixed", count=torch.zeros_like(self.bandit.count),
            reward_sum=torch.zeros_like(self.bandit.count),
            reward_sq=torch.zeros_like(self.bandit.count),
        )  # fmt: skip
        self.requests = 0

    def bind(self, names: Sequence[str]) -> None:
        """Say which drafters there are; arms that name none are for the first.

        Raises
        ------
        EngineError
            If an arm is for a drafter that is not there, or a hedge has arms of several that
            differ in more than the one drafter each of them names.
        """
        wanted = [drafters or names[:1] for drafters in self.drafters]
        missing = sorted({name for arm in wanted for name in arm} - set(names))
        if missing:
            raise EngineError(
                f"arms: drafters must be among {', '.join(names)}, got {', '.join(missing)}"
            )
        self.full_information = self.bandit.policy in HEDGES and len(set(map(tuple, wanted))) > 1
        if self.full_information:
            self._require_drafters(wanted)
        most = max(map(len, wanted))
        order = [[names.index(name) for name in arm] for arm in wanted]
        self.order = [places + places[-1:] * (most - len(places)) for places in order]
        """For each arm the drafters that are tried in turn, equally many."""

    def _require_drafters(self, wanted: Sequence[Sequence[str]]) -> None:
        """Arms that a hedge can compare by what their drafters say of each token."""
        first = (self.rules.names[0], self.rules.params[0])
        rules = zip(self.rules.names, self.rules.params, strict=True)
        each = {tuple(drafters) for drafters in wanted}
        alone = len(each) == len(wanted) and all(len(drafters) == 1 for drafters in wanted)
        if not alone or any(rule != first for rule in rules):
            raise EngineError(
                f"arms: {self.bandit.policy} over several drafters compares drafters: expected one "
                "arm for each, of the same rule, such as draft/fixed_length:n=4, got "
                + ", ".join(map(self._label, range(len(self.rules))))
            )
        if self.horizon < 1:
            raise EngineError(
                f"arms: {self.bandit.policy} over several drafters must let them draft, got "
                f"{self._label(0)}"
            )

    @property
    def horizon(self) -> int:
        """The tokens after a position that say how long a drafter's draft would have been right."""
        fixed = self.rules.names[0] == "fixed_length"
        return min(self.slots, int(self.rules.params[0]["n"])) if fixed else self.slots

    def require_predictor(self, given: bool) -> None:
        """Raise an EngineError if an arm follows predictions and nobody makes any."""
        if "predicted_length" in self.rules.names and not given:
            raise EngineError(
                "arms: predicted_length drafts as long as it is told: expected "
                "SpeculativeDecoder(predictor=), got none"
            )

    def drafters_of_rows(self, offers: Sequence[Sequence[bool] | None]) -> list[int]:
        """Each row's drafter, the first of its arm's that offers a draft, else the last.

        ``offers`` say of each drafter for which rows it has one, None: for all. The host reads the
        arms: on a CPU a dozen operators take longer than all of it.
        """

        def first(row: int, arm: int) -> int:
            *order, last = self.order[max(arm, 0)]
            offering = (at for at in order if offers[at] is None or offers[at][row])
            return next(offering, last)

        return [first(row, arm) for row, arm in enumerate(self.state.arm.tolist())]

    def admit(self, seeds: Sequence[int]) -> list[int]:
        """Begin a batch; returns the random key of each request.

        A bandit remembers what noise did, so no two requests it sees may share a key.
        """
        self.begin(len(seeds))
        return self.keys(seeds)

    def begin(self, rows: int) -> None:
        """Memory of the rules for ``rows`` requests, in ``state``; the bandit goes on."""
        self.state = tk.StopState.of(rows, self.rules, device=self.device)
        self.bandit = self.bandit.for_rows(rows)
        if self.full_information:
            self.ring = tk.DrafterRing.empty(rows, len(self.rules), self.horizon, self.device)

    def keys(self, seeds: Sequence[int]) -> list[int]:
        """The random keys of the next requests."""
        first, self.requests = self.requests, self.requests + len(seeds)
        return [tk.mix64(seed, first + i) for i, seed in enumerate(seeds)]

    def select(self, live: Tensor, backend: str | None = None) -> None:
        """Pick an arm for every live row, into ``state.arm``."""
        tk.bandit_select(self.bandit, live=live, out=self.state.arm, backend=backend)

    def learner(self, cost_ratio: Tensor) -> tk.BanditState:
        """For :meth:`update`: the bandit of this batch where a draft step costs ``cost_ratio`` [1]
        f32. With full information the tally of rounds alone: see :meth:`observe`."""
        bandit = self.rounds if self.full_information else self.bandit
        return replace(bandit, cost_ratio=cost_ratio)

    def update(
        self,
        learner: tk.BanditState,
        proposal: tk.Proposal,
        verdict: tk.Verdict,
        backend: str | None = None,
    ) -> None:
        """Learn from a verified round; so do the rules that remember."""
        tk.bandit_update(
            learner, self.state.arm, proposal, verdict,
            rules=self.rules, state=self.state, backend=backend,
        )  # fmt: skip

    def observe(self, gamma: Tensor, count: Tensor, live: Tensor) -> None:
        """Learn what every drafter thought of ``count`` [B] new tokens: ``gamma`` [B, A, N] f64."""
        tk.observe_drafters(self.bandit, self.ring, gamma, count, live=live)

    def report(self) -> list[ArmReport]:
        """Pulls and mean reward of every arm; with full information the mean is over all
        positions, whoever drafted there."""
        tally = self.rounds if self.full_information else self.bandit
        pulls, judged = tally.count[0].tolist(), self.bandit.count[0].tolist()
        rewards = self.bandit.reward_sum[0].tolist()
        return [
            ArmReport(self._label(arm), int(n), total / of if of else 0.0)
            for arm, (n, of, total) in enumerate(zip(pulls, judged, rewards, strict=True))
        ]

    def _label(self, arm: int) -> str:
        drafters = "|".join(self.drafters[arm])
        return f"{drafters}/{self.rules.label(arm)}" if drafters else self.rules.label(arm)
