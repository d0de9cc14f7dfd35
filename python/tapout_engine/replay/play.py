"""Traces joined, and one policy played over a stream of their requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tapout_kernels.replay import DraftTable, Oracle, RoundCosts, Rounds, oracle, replay

from ..arms import DRAFTER_ARMS, LENGTH_ARMS, TAPOUT_ARMS, Arm
from ..controller import Controller
from ..errors import EngineError
from ..traces import Trace

UNKNOWN = "overlap"  # the reward that no trace holds
SAME = ("drafters", "slots", "always", "target")


@dataclass(frozen=True)
class Play:
    """A policy to play: its arms, and the bandit's settings as :class:`Controller` takes them."""

    label: str
    arms: tuple[Arm, ...]
    policy: str = "fixed"
    reward: str = "blend"
    level: str = "sequence"
    settings: dict[str, float] = field(default_factory=dict)


def join(traces: Sequence[Trace]) -> Trace:
    """One trace of all requests; domains of one name are one. Costs are those of the first.

    Raises
    ------
    EngineError
        If they differ in their drafters, their slots or their target.
    """
    first = traces[0]
    for other in traces[1:]:
        for name in SAME:
            own, got = getattr(first.meta, name), getattr(other.meta, name)
            if got != own:
                raise EngineError(f"replay: traces must share {name}: expected {own}, got {got}")
    domains = list(dict.fromkeys(name for trace in traces for name in trace.meta.domains))
    index = [np.array([domains.index(name) for name in trace.meta.domains]) for trace in traces]
    lengths = np.concatenate([np.diff(trace.start) for trace in traces])
    joined = {
        name: np.concatenate([getattr(trace, name) for trace in traces])
        for name in ("key", "prompt_length", "tokens", "budget", "drafts", "offered", "stats",
                     "accepted")
    }  # fmt: skip
    domain = [names[trace.domain] for names, trace in zip(index, traces, strict=True)]
    return Trace(
        meta=replace(first.meta, domains=domains), domain=np.concatenate(domain).astype(np.int32),
        start=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64), **joined,
    )  # fmt: skip


class Player:
    """Plays policies over the requests of a trace.

    Parameters
    ----------
    trace : Trace
    """

    def __init__(self, trace: Trace):
        self.trace, self.meta = trace, trace.meta
        self.table = DraftTable(
            trace.stats, trace.offered, trace.accepted, trace.budget, trace.start,
            np.array(trace.meta.always),
        )  # fmt: skip

    def play(
        self, play: Play, requests: np.ndarray, costs: RoundCosts, batch: int = 1, seed: int = 0
    ) -> Rounds:
        """One policy over requests in their order; the bandit begins afresh.

        Raises
        ------
        EngineError
            If an arm is for a drafter that the trace has not, or token level is asked for with
            arms of several drafters.
        """
        controller = self.check(play, seed)
        drafters = np.array(controller.order, dtype=np.int32)
        return replay(
            self.table, controller.rules, controller.bandit, costs, drafters, requests, batch,
            controller.horizon if controller.full_information else None,
        )  # fmt: skip

    def check(self, play: Play, seed: int = 0) -> Controller:
        """The controller that live decoding would have; errors as for :meth:`play`."""
        controller = Controller(
            play.arms, self.meta.slots, play.policy, play.reward, level=play.level, seed=seed,
            **play.settings,
        )  # fmt: skip
        controller.bind(self.meta.drafters)
        if play.reward == UNKNOWN:
            raise EngineError("replay: a trace does not hold what the reward overlap reads")
        if play.level == "token" and len(set(map(tuple, controller.order))) > 1:
            raise EngineError("replay: arms must name the same drafters at level token")
        return controller

    def oracle(self, costs: RoundCosts) -> Oracle:
        """The cheapest choices at every position, see :func:`tapout_kernels.replay.oracle`."""
        return oracle(self.table, costs)

    def default_arms(self) -> tuple[Arm, ...]:
        """Those that live decoding takes for such drafters; of several models, for each."""
        models = [n for n, model in zip(self.meta.drafters, self.meta.always, strict=True) if model]
        lookup = [name for name in self.meta.drafters if name not in models]
        if not models:
            return LENGTH_ARMS
        if not lookup and len(models) == 1:
            return TAPOUT_ARMS
        table = DRAFTER_ARMS if lookup else [(*arm, ("draft",)) for arm in TAPOUT_ARMS]
        names = {"prompt-lookup": lookup[0]} if lookup else {}
        arms = [_renamed(arm, {**names, "draft": model}) for model in models for arm in table]
        return tuple(arm for i, arm in enumerate(arms) if _new(arm, arms[:i]))


def _renamed(arm: Arm, names: dict[str, str]) -> Arm:
    return (*arm[:2], tuple(names[drafter] for drafter in arm[2]))


def _new(arm: Arm, before: Sequence[Arm]) -> bool:
    """Not to draft is the same arm for every drafter."""
    idle = arm[1].get("n") == 0 and any(other[1].get("n") == 0 for other in before)
    return not idle and arm not in before
