"""What replayed rounds amount to: speed, lengths, regret, who was pulled when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tapout_kernels.replay import DraftTable, Oracle, RoundCosts, Rounds

POINTS = 100  # of a curve over a stream


@dataclass(frozen=True)
class Measured:
    """Tokens and cost summed up to each round [rounds], and what each request's round drafted.

    ``plain`` is decoding of the same stream without drafts, None for itself.
    """

    tokens: np.ndarray
    cost: np.ndarray
    drafted: np.ndarray
    accepted: np.ndarray
    plain: Measured | None = None

    @property
    def speed(self) -> float:
        """Tokens for the cost of a forward of one request without drafts."""
        return float(self.tokens[-1] / self.cost[-1])

    def cost_at(self, tokens: np.ndarray | float) -> np.ndarray:
        """The cost of the first ``tokens`` tokens; rounds are spread evenly over theirs."""
        return np.interp(tokens, [0, *self.tokens], [0, *self.cost])

    @property
    def second_half(self) -> float:
        """:attr:`speed` of the second half of the tokens."""
        half = self.tokens[-1] / 2
        return float(half / (self.cost[-1] - self.cost_at(half)))

    def row(self) -> dict:
        """For tables and files; speeds are relative to decoding without drafts."""
        plain = self.plain or self
        lengths = np.bincount(self.accepted)
        return {
            "speed": self.speed / plain.speed,
            "second_half": self.second_half / plain.second_half,
            "tokens": int(self.tokens[-1]), "cost": float(self.cost[-1]),
            "rounds": len(self.drafted), "drafted": float(self.drafted.mean()),
            "accepted": float(self.accepted.mean()),
            "undrafted": float((self.drafted == 0).mean()), "lengths": lengths.tolist(),
        }  # fmt: skip


def measured(rounds: Rounds, plain: Measured | None) -> Measured:
    """Sums of a replay."""
    emitted = np.bincount(rounds.round, rounds.emitted, minlength=len(rounds.cost))
    return Measured(
        np.cumsum(emitted), np.cumsum(rounds.cost), rounds.drafted, rounds.accepted, plain
    )


def curves(rounds: Rounds, found: Measured, best: Measured, arms: int) -> dict:
    """Over the stream: rounds and ``regret``, the cost beyond that of ``best`` for as many tokens;
    and ``shares`` [arms][parts], how often each arm was pulled around there."""
    tokens = np.linspace(0, found.tokens[-1], POINTS + 1)
    number = np.interp(tokens, [0, *found.tokens], np.arange(len(found.tokens) + 1))
    count = min(POINTS // 2, 2 + len(rounds.arm) // 50)
    bins = np.linspace(0, len(rounds.arm), count + 1)
    place, arm = np.arange(len(rounds.arm)), np.arange(arms + 1) - 0.5
    pulls, _, _ = np.histogram2d(rounds.arm, place, [arm, bins])
    return {
        "rounds": number.tolist(),
        "regret": (found.cost_at(tokens) - best.cost_at(tokens)).tolist(),
        "shares": (pulls / np.maximum(pulls.sum(0), 1)).tolist(),
    }


def follow(table: DraftTable, plan: Oracle, requests: np.ndarray, costs: RoundCosts) -> Measured:
    """The rounds of the oracle, all requests side by side, then in their order."""
    order, position = np.arange(len(requests)), table.start[requests]
    end = table.start[requests + 1]
    rounds: list[tuple[np.ndarray, ...]] = []
    while len(order):
        n, d = plan.drafted[position], plan.drafter[position]
        accepted = np.minimum(n, table.accepted[position, d])
        emitted = np.minimum(accepted + 1, end - position)
        cost = costs.verify[0, n] + n * costs.draft[0, d]
        rounds.append((order, emitted, cost, n, accepted))
        position = position + emitted
        going = position < end
        order, position, end = order[going], position[going], end[going]
    by, emitted, cost, drafted, accepted = (
        np.concatenate(column) for column in zip(*rounds, strict=True)
    )
    turn = np.argsort(by, kind="stable")
    return Measured(np.cumsum(emitted[turn]), np.cumsum(cost[turn]), drafted[turn], accepted[turn])
