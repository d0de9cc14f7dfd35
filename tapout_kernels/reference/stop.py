"""Stop rules: when to stop drafting, from draft-side statistics alone.

Each rule is one row of ``STOP_RULES``; its index there is its ``kind`` in every backend.  A rule
sees the statistics of the slots drafted so far, its parameters and the memory its arm keeps
between rounds.  The token whose statistics triggered the stop is kept.  What a finished round
does to the memory: :mod:`.stop_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import stop_memory
from .stats import ACCEPT_ESTIMATE, ENTROPY, TOP1_PROB, TOP2_PROB
from .stop_memory import FinishedRound

NONE, RULE, MAX_LENGTH, PRE_DRAFT, NOT_LIVE, BAD_LOGITS = range(6)  # stop_reason
NUM_PARAMS = 4
NUM_MEMORY = 4


class Slot(NamedTuple):
    """What a rule may look at, R rows at once, all float64."""

    index: Tensor  # [R] i64, of the token just drafted
    table: Tensor  # [R, K, 8] statistics of the whole draft
    param: Tensor  # [R, 4]
    memory: Tensor  # [R, 4]

    def at(self, index: Tensor) -> Tensor:
        """[R, 8] statistics of one slot."""
        return self.table.gather(1, index[:, None, None].expand(-1, 1, self.table.shape[-1]))[:, 0]

    @property
    def stats(self) -> Tensor:
        return self.at(self.index)

    @property
    def threshold(self) -> Tensor:
        return self.param[:, 0]


def _sqrt_entropy(stats: Tensor) -> Tensor:
    return stats[:, ENTROPY].clamp(min=0).sqrt()


def _fixed_length(s: Slot) -> Tensor:
    return s.index + 1 >= s.threshold


def _max_confidence(s: Slot) -> Tensor:
    return s.stats[:, TOP1_PROB] < s.threshold


def _svip(s: Slot) -> Tensor:
    return _sqrt_entropy(s.stats) > s.threshold


def _svip_difference(s: Slot) -> Tensor:
    rise = _sqrt_entropy(s.stats) - _sqrt_entropy(s.at((s.index - 1).clamp(min=0)))
    return (s.index > 0) & (rise > s.threshold)


def _logit_margin(s: Slot) -> Tensor:
    stats = s.stats
    return stats[:, TOP1_PROB] - stats[:, TOP2_PROB] < s.threshold


def _adaedl(s: Slot) -> Tensor:
    gamma, bound = s.param[:, 0], s.memory[:, 0]
    return 1 - (gamma * s.stats[:, ENTROPY].clamp(min=0)).sqrt() < bound


def _survival(s: Slot) -> Tensor:
    estimate = s.table[..., ACCEPT_ESTIMATE]
    chance = torch.where(estimate != 0, estimate, s.table[..., TOP1_PROB]).cumprod(-1)
    return chance.gather(-1, s.index[:, None])[:, 0] < s.threshold


def _remembered_length(s: Slot) -> Tensor:
    return s.index + 1 >= s.memory[:, 0]


def _gammatune_plus(s: Slot) -> Tensor:
    return _remembered_length(s) | (s.stats[:, TOP1_PROB] < s.param[:, 3])


def _hysteresis(s: Slot) -> Tensor:
    return s.memory[:, 1] != 0  # a probe is one token


def _adasd_entropy(s: Slot) -> Tensor:
    (accepted, entropy_accepted, rejected, entropy_rejected) = s.memory.unbind(-1)
    threshold = (entropy_accepted + entropy_rejected) / 2
    known = (accepted > 0) & (rejected > 0)
    return known & (s.stats[:, ENTROPY].clamp(min=0) > threshold)


def _never(param: Tensor, memory: Tensor) -> Tensor:
    return torch.zeros_like(param[:, 0], dtype=torch.bool)


class StopRule(NamedTuple):
    """``update`` is asked after rounds that drafted something; that of a rule which
    ``counts_refusals``, after rounds its own pre-draft test ended too."""

    name: str
    defaults: dict[str, float]  # parameter name -> default, in the order of the param columns
    stop: Callable[[Slot], Tensor]
    initial_memory: Callable[[list[float]], list[float]] = lambda params: []
    refuses: Callable[[Tensor, Tensor], Tensor] = _never  # pre-draft test of param and memory
    update: Callable[[FinishedRound], Tensor] | None = None
    counts_refusals: bool = False


STOP_RULES: tuple[StopRule, ...] = (
    StopRule(
        "fixed_length", {"n": 4}, _fixed_length, refuses=lambda param, memory: param[:, 0] <= 0
    ),
    StopRule("max_confidence", {"threshold": 0.8}, _max_confidence),
    StopRule("svip", {"threshold": 0.6}, _svip),
    StopRule("svip_difference", {"threshold": 0.2}, _svip_difference),
    StopRule("logit_margin", {"threshold": 0.2}, _logit_margin),
    StopRule(
        "adaedl",
        {"gamma": 0.2, "initial_threshold": 0.5},
        _adaedl,
        lambda params: [params[1], 0.0],  # threshold lambda, running acceptance rate
        update=stop_memory.adaedl,
    ),
    StopRule("survival", {"threshold": 0.4}, _survival),
    StopRule(
        "gammatune",
        {"initial_length": 4, "delta": 2, "eta": 0.3},
        _remembered_length,
        lambda params: [params[0], params[0]],  # length gamma, mean of accepted drafts
        update=stop_memory.gammatune,
    ),
    StopRule(
        "gammatune_plus",
        {"initial_length": 4, "delta": 2, "eta": 0.3, "threshold": 0.3},
        _gammatune_plus,
        lambda params: [params[0], params[0]],
        update=stop_memory.gammatune,
    ),
    StopRule(
        "heuristic",
        {"initial_length": 5},
        _remembered_length,
        lambda params: [params[0]],  # length
        update=stop_memory.heuristic,
    ),
    StopRule(
        "hysteresis",
        {"high": 2.0, "low": 1.0, "alpha": 0.35, "probe_every": 8},
        _hysteresis,
        refuses=lambda param, memory: (memory[:, 1] != 0) & (memory[:, 2] + 1 < param[:, 3]),
        update=stop_memory.hysteresis,  # mean entropy, 1 while off, rounds refused since a draft
        counts_refusals=True,
    ),
    StopRule(
        "adasd_entropy",
        {},
        _adasd_entropy,
        update=stop_memory.adasd_entropy,  # number and mean entropy of accepted, of rejected
    ),
    StopRule(
        "predicted_length",
        {},
        _remembered_length,
        lambda params: [math.inf],  # the prediction: none yet
        refuses=lambda param, memory: memory[:, 0] <= 0,
    ),
    StopRule(
        "adl",
        {"rho": 0.5, "delta": 10, "shortest": 20, "longest": 30},
        _remembered_length,
        lambda params: [params[3]],  # length, means of drafted and of accepted
        update=stop_memory.adl,
    ),
)
KINDS = {rule.name: kind for kind, rule in enumerate(STOP_RULES)}
PREDICTED_LENGTH = KINDS["predicted_length"]
SMALLEST_ESTIMATE = 2.0**-126  # an acceptance estimate that is not positive is stored as this


def should_stop(kind: Tensor, slot: Slot) -> Tensor:
    """[R] bool; a kind outside the table (-1: no rule) never stops."""
    stop = torch.zeros_like(kind, dtype=torch.bool)
    for index, rule in enumerate(STOP_RULES):
        stop = torch.where(kind == index, rule.stop(slot), stop)
    return stop


def stop_before_drafting(kind: Tensor, param: Tensor, memory: Tensor) -> Tensor:
    """[R] bool: the pre-draft test, so that a round may draft nothing."""
    stop = torch.zeros_like(kind, dtype=torch.bool)
    for index, rule in enumerate(STOP_RULES):
        stop = torch.where(kind == index, rule.refuses(param, memory), stop)
    return stop


def updated_memory(kind: Tensor, finished: FinishedRound) -> Tensor:
    """[R, 4] float64 memory of the arms that ran, after their round."""
    memory, drafted = finished.memory, finished.drafted > 0
    for index, rule in enumerate(STOP_RULES):
        if rule.update is None:
            continue
        asked = drafted | finished.refused if rule.counts_refusals else drafted
        learns = (kind == index) & asked
        memory = torch.where(learns[:, None], rule.update(finished), memory)
    return memory


def predicted_length(prediction: Tensor, slots: int) -> Tensor:
    """What that rule remembers of a prediction: rounded, halves up, in [0, K]; NaN is none."""
    return (prediction.double() + 0.5).floor().clamp(0, slots).float()


class Rules(NamedTuple):
    """The table of arms, and each batch row's arm and memory; ``kind`` None: no rules at all."""

    kind: Tensor | None  # [A] i32
    param: Tensor | None  # [A, 4] f32
    arm: Tensor | None  # [B] i32, or [B, K] at token level
    memory: Tensor | None  # [B, A, 4] f32


class ArmOfSlot(NamedTuple):
    """The arm that decides after one slot, in every row."""

    kind: Tensor  # [B] i64, -1 where no rule applies
    param: Tensor  # [B, 4] f64
    memory: Tensor  # [B, 4] f64


def arm_of_slot(rules: Rules, slot: Tensor) -> ArmOfSlot:
    """``slot`` [B] i64; an arm outside the table is no rule."""
    if rules.kind is None:
        zeros = torch.zeros(*slot.shape, NUM_PARAMS, dtype=torch.float64, device=slot.device)
        return ArmOfSlot(torch.full_like(slot, -1), zeros, zeros)
    arm = rules.arm
    if arm.dim() == 2:
        arm = arm.gather(-1, slot.clamp(max=arm.shape[-1] - 1)[:, None])[:, 0]
    known = (arm >= 0) & (arm < rules.kind.shape[0])
    index = torch.where(known, arm, 0).long()
    rows = torch.arange(arm.shape[0], device=arm.device)
    kind = torch.where(known, rules.kind[index].long(), -1)
    return ArmOfSlot(kind, rules.param[index].double(), rules.memory[rows, index].double())


def stored_estimate(accept_estimate: Tensor) -> Tensor:
    """As ``survival`` keeps it in the statistics, where 0 means that none was given."""
    return torch.where(accept_estimate > 0, accept_estimate, SMALLEST_ESTIMATE)
