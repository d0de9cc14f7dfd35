"""What a finished round does to the memory of the stop rule that ran (docs/algorithms.md).

Every function gives the [R, 4] memory after rounds that drafted something (``hysteresis``: or that
it refused); :func:`.stop.updated_memory` picks the rule and the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .stats import ENTROPY


class FinishedRound(NamedTuple):
    """R rounds, one for each row."""

    param: Tensor  # [R, 4] f64 of the arm that ran
    memory: Tensor  # [R, 4] f64, before
    accepted: Tensor  # [R] f64
    drafted: Tensor  # [R] f64
    refused: Tensor  # [R] bool: the pre-draft test ended it
    stats: Tensor  # [R, K, 8] f64

    @property
    def slots(self) -> int:
        return self.stats.shape[1]

    def judged(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Slot by slot: entropy, and whether the token was accepted, or the first rejected.

        What lies after the first rejection was drafted in a context that never came to be.
        """
        for slot in range(self.slots):
            inside = slot < self.drafted
            entropy = self.stats[:, slot, ENTROPY].clamp(min=0)
            yield entropy, inside & (slot < self.accepted), inside & (slot == self.accepted)


def _with(memory: Tensor, *columns: Tensor) -> Tensor:
    """``memory`` with its first columns replaced."""
    return torch.cat([torch.stack(columns, -1), memory[:, len(columns) :]], -1)


def _stored(value: Tensor) -> Tensor:
    """As it is kept, in float32: what is decided by it must not hang on less."""
    return value.float().double()


def adaedl(r: FinishedRound) -> Tensor:
    """AR <- .5 AR + .5 n_acc/n_draft; lambda moves by .01 towards an acceptance rate of .9 (it is
    not lowered after a round that used every slot), smoothed by .9."""
    threshold = r.memory[:, 0]
    rate = 0.5 * r.memory[:, 1] + 0.5 * r.accepted / r.drafted.clamp(min=1)
    lowered = torch.where(r.drafted == r.slots, threshold, threshold - 0.01)
    moved = torch.where(rate < 0.9, threshold + 0.01, lowered)
    return _with(r.memory, 0.9 * threshold + 0.1 * moved, rate)


def gammatune(r: FinishedRound) -> Tensor:
    """n_acc = gamma: gamma <- min(gamma + delta, K).  Else mean <- clip((1 - eta) mean +
    eta n_acc, 1, K), gamma <- ceil(mean)."""
    gamma, mean = r.memory[:, 0], r.memory[:, 1]
    delta, eta = r.param[:, 1], r.param[:, 2]
    reached = r.accepted >= gamma
    moved = _stored(((1 - eta) * mean + eta * r.accepted).clamp(1, r.slots))
    longer = (gamma + delta).clamp(1, r.slots)
    return _with(
        r.memory, torch.where(reached, longer, moved.ceil()), torch.where(reached, mean, moved)
    )


def heuristic(r: FinishedRound) -> Tensor:
    """n <- n + 2 if every draft was accepted, else n - 1; in [1, K]."""
    length = r.memory[:, 0] + torch.where(r.accepted >= r.drafted, 2.0, -1.0)
    return _with(r.memory, length.clamp(1, r.slots))


def hysteresis(r: FinishedRound) -> Tensor:
    """E <- (1 - alpha) E + alpha H over the judged tokens; off above ``high``, on below ``low``.
    A refused round is counted, a draft starts the count again."""
    mean, off, idle = r.memory[:, 0], r.memory[:, 1], r.memory[:, 2]
    high, low, alpha = r.param[:, 0], r.param[:, 1], r.param[:, 2]
    for entropy, accepted, rejected in r.judged():
        mean = torch.where(accepted | rejected, (1 - alpha) * mean + alpha * entropy, mean)
    mean = _stored(mean)
    off = torch.where(mean > high, 1.0, torch.where(mean < low, 0.0, off))
    refused = _with(r.memory, r.memory[:, 0], r.memory[:, 1], idle + 1)
    drafted = _with(r.memory, mean, off, torch.zeros_like(idle))
    return torch.where(r.drafted[:, None] > 0, drafted, refused)


def adasd_entropy(r: FinishedRound) -> Tensor:
    """The running means of H over accepted and over rejected tokens; its threshold lies between."""
    hits, mean_hit, misses, mean_miss = r.memory.unbind(-1)
    for entropy, accepted, rejected in r.judged():
        hits, misses = hits + accepted, misses + rejected
        mean_hit = mean_hit + torch.where(accepted, (entropy - mean_hit) / hits.clamp(min=1), 0.0)
        gain = (entropy - mean_miss) / misses.clamp(min=1)
        mean_miss = mean_miss + torch.where(rejected, gain, 0.0)
    return _with(r.memory, hits, mean_hit, misses, mean_miss)


def adl(r: FinishedRound) -> Tensor:
    """gen <- (1 - rho) gen + rho n_draft, acc likewise of n_acc; length <- clip(ceil(gen) +
    delta [acc >= gen], shortest, longest)."""
    rho, delta, low, high = r.param.unbind(-1)
    generated = _stored((1 - rho) * r.memory[:, 1] + rho * r.drafted)
    accepted = _stored((1 - rho) * r.memory[:, 2] + rho * r.accepted)
    wanted = generated.ceil() + torch.where(accepted >= generated, delta, 0.0)
    length = torch.minimum(torch.maximum(wanted, low), high)
    return _with(r.memory, length, generated, accepted)
