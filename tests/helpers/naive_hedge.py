"""Hedges over drafters as loops over Python numbers, from the whole text of every request."""

from __future__ import annotations

import math


class NaiveHedge:
    """One group: tables as lists, and every gamma that each row has been told."""

    def __init__(self, arms: int, slots: int, discount: float = 1.0, epsilon: float | None = None):
        self.arms, self.slots, self.discount = arms, slots, discount
        self.epsilon = epsilon  # of normalhedge; None: hedge
        self.count, self.reward_sum, self.reward_sq = ([0.0] * arms for _ in range(3))
        self.text: dict[int, list[list[float]]] = {}  # row -> gammas [positions][arms]

    def forget(self, row: int) -> None:
        self.text.pop(row, None)

    def tell(self, row: int, gammas: list[list[float]], drawn: list[float]) -> None:
        """``gammas`` [new tokens][arms]; ``drawn``: the distribution the row's arm came from."""
        text = self.text.setdefault(row, [])
        for gamma in gammas:
            text.append(gamma)
            if len(text) >= self.slots:
                self._position(text, len(text) - self.slots, drawn)

    def _position(self, text: list[list[float]], at: int, drawn: list[float]) -> None:
        lengths = [
            1 + math.fsum(
                math.prod(text[at + j][arm] for j in range(k + 1)) for k in range(self.slots)
            )
            for arm in range(self.arms)
        ]  # fmt: skip
        losses = [1 - length / (self.slots + 1) for length in lengths]
        own = 0.0
        if self.epsilon is not None:
            share, kept = self.epsilon / self.arms, 1 - self.epsilon
            weights = [(p - share) / kept for p in drawn]
            own = math.fsum(w * loss for w, loss in zip(weights, losses, strict=True))
        for arm, loss in enumerate(losses):
            adds = (1 / self.arms, (1 - loss) / self.arms,
                    loss if self.epsilon is None else own - loss)  # fmt: skip
            for table, add in zip((self.count, self.reward_sum, self.reward_sq), adds, strict=True):
                table[arm] = table[arm] * self.discount + add
