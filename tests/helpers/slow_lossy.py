"""The lossy rules of ``verify`` written again from their text, for :mod:`.slow_verify`.

float64, one id at a time, no code in common with the package.  Numbers are repeated on purpose.
"""

from __future__ import annotations

import math

from .slow_law import ACCEPT, OK

TYPICAL, EARS, CONSULTANT, FLY, ADASD = RULES = range(4, 9)


def entropy(p: list[float]) -> float:
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def jensen_shannon(p: list[float], q: list[float]) -> float:
    """The distance: the root of the mean divergence, in nats, from the mean of both."""
    parts = []
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        parts += [x * math.log(x / m) / 2 for x in (a, b) if x > 0]
    return math.sqrt(max(0.0, math.fsum(parts)))


class Judge:
    """One draft of one request, slot after slot."""

    def __init__(self, request):
        self.request, self.rule = request, request.rule
        self.r = 0.0
        self.seen = [0.0, 0.0, 0.0, 0.0]
        if self.rule == ADASD:
            memory = request.args["lossy_memory"][request.state].tolist()
            (yes, n_yes), (no, n_no) = memory[:2], memory[2:]
            self.tau = (yes / n_yes + no / n_no) / 2 if n_yes and n_no else None

    def __call__(self, i: int) -> tuple[bool, float]:
        """Whether draft i stays, and what is said of its chance."""
        request = self.request
        if request.foreign(i):
            return False, 0.0
        p = request.law(i).p
        p_x = p[request.token(i)]
        if self.rule == EARS:
            chance = p_x / request.p_draft_of_token(i) + 0.3 * (1 - max(p))
            accepted = p_x > 0 and request.u(i, ACCEPT) <= chance
            return accepted, min(1.0, chance) if p_x > 0 else 0.0
        accepted = {
            TYPICAL: self.typical, CONSULTANT: self.consultant, FLY: self.fly, ADASD: self.adasd,
        }[self.rule](i, p, p_x)  # fmt: skip
        return accepted, float(accepted)

    def typical(self, i: int, p: list[float], p_x: float) -> bool:
        return p_x > min(0.3, 0.09 * math.exp(-entropy(p)))

    def consultant(self, i: int, p: list[float], p_x: float) -> bool:
        self.r = 0.2 * self.r - 0.8 * math.log(p_x) if p_x > 0 else math.inf
        return self.r <= 2

    def matches(self, i: int) -> bool:
        request = self.request
        if i >= request.length or request.law(i).status != OK or request.bad(i):
            return False
        return request.token(i) == request.argmax(i)

    def fly(self, i: int, p: list[float], p_x: float) -> bool:
        if self.matches(i):
            return True
        unsure = p_x > 0 and entropy(p) >= 0.3 * math.log(len(p))
        return unsure and all(self.matches(j) for j in range(i + 1, i + 7))

    def adasd(self, i: int, p: list[float], p_x: float) -> bool:
        distance = jensen_shannon(p, self.request.p_draft(i))
        near = self.tau is not None and p_x > 0 and distance <= self.tau
        accepted = near or self.matches(i)
        self.seen[0 if accepted else 2] += distance
        self.seen[1 if accepted else 3] += 1
        return accepted

    def replacement(self, i: int) -> int:
        """What stands in place of draft i."""
        request = self.request
        return request.replacement(i, 1.0) if self.rule == EARS else request.target_token(i)

    def remember(self) -> None:
        if self.rule == ADASD:
            row = self.request.args["lossy_memory"][self.request.state]
            for column, value in enumerate(self.seen):
                row[column] += value
