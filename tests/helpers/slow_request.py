"""One request of ``verify`` as its rules see it, for :mod:`.slow_verify`: rows, drafts, noise."""

from __future__ import annotations

import math

from . import slow_lossy
from .slow_law import EMPTY, RESIDUAL, Law, draw, gumbel_noise, law_of, softmax, uniform

GUMBEL, GREEDY = 2, 3  # rules
TOKEN_LOGPROB, CUTOFF, TEMPERATURE = 4, 5, 6  # columns of stats


class Request:
    def __init__(self, args: dict, b: int, state: int):
        self.args, self.b, self.state = args, b, state
        self.rule, self.slots = args["rule"], args["draft_tokens"].shape[1]
        self.length = min(max(int(args["length"][b]), 0), self.slots)
        self.seed, self.round = int(args["seed"][state]), int(args["round"][b])
        self.position = int(args["position"][state])
        self.vocab = args["target_logits"].shape[-1]
        self.laws: dict[int, Law] = {}

    def u(self, slot: int, domain: int) -> float:
        return uniform(self.seed, slot, self.round, domain)

    def column(self, name: str, off: float) -> float:
        value = self.args[name]
        return off if value is None else float(value[self.state])

    def index(self, i: int):
        """Where target row i is; None if it does not exist."""
        start = self.args["row_start"]
        if start is None:
            return self.b, i
        row = int(start[self.b]) + i
        low, high = max(int(start[self.b]), 0), int(start[self.b + 1])
        return row if low <= row < min(high, self.args["target_logits"].shape[0]) else None

    def raw_row(self, i: int) -> list[float]:
        return self.args["target_logits"][self.index(i)].double().tolist()

    def law(self, i: int) -> Law:
        if i not in self.laws:
            self.laws[i] = self._law(i)
        return self.laws[i]

    def _law(self, i: int) -> Law:
        if self.index(i) is None:
            return Law(EMPTY, [], [], 0.0)
        z = self.raw_row(i)
        if self.args["token_mask"] is not None:
            words = self.args["token_mask"][self.index(i)].tolist()
            z = [x if words[v >> 5] >> (v & 31) & 1 else -math.inf for v, x in enumerate(z)]
        if self.rule == GREEDY:
            return law_of(z, 0.0, 0, 1.0, 0.0)
        return law_of(
            z, self.column("temperature", 1.0), int(self.column("top_k", 0)),
            self.column("top_p", 1.0), self.column("min_p", 0.0),
        )  # fmt: skip

    # -- the draft --

    def token(self, i: int) -> int:
        return int(self.args["draft_tokens"][self.b, i])

    def stats(self, i: int) -> list[float]:
        return self.args["stats"][self.b, i].double().tolist()

    def kept_row(self) -> int | None:
        row = self.args["logits_row"]
        row = self.b if row is None else int(row[self.b])
        return row if 0 <= row < self.args["draft_logits"].shape[0] else None

    def one_hot(self, i: int) -> bool:
        no_logits = self.args["draft_logits"] is None
        return self.rule == GREEDY or no_logits or self.stats(i)[TEMPERATURE] == 0

    def draft_id(self, v: int) -> int:
        table = self.args["t2d"]
        if table is None:
            return v if v < self.vocab else -1
        return int(table[v]) if v < len(table) else -1

    def p_draft_of_token(self, i: int) -> float:
        """Of the drafted token; 0 where the kept row or the draft vocabulary lacks it."""
        x = self.token(i)
        if self.rule == GREEDY or self.args["draft_logits"] is None:
            return 1.0
        if x < 0 or self.kept_row() is None or self.draft_id(x) < 0:
            return 0.0
        p = math.exp(self.stats(i)[TOKEN_LOGPROB])
        return 1.0 if p > 1 else p  # NaN stays NaN

    def outside(self, i: int) -> bool:
        return not 0 <= self.token(i) < self.vocab

    def foreign(self, i: int) -> bool:
        """Really drawn by the draft, but no id of the target: p_target = 0."""
        weighed = self.rule not in (GUMBEL, GREEDY) and self.args["draft_logits"] is not None
        return self.outside(i) and weighed and self.p_draft_of_token(i) > 0

    def bad(self, i: int) -> bool:
        """Cannot have been drawn: the draft ends before it."""
        if self.outside(i):
            return not self.foreign(i)
        return self.rule not in (GUMBEL, GREEDY) and not self.p_draft_of_token(i) > 0

    def p_target_of_token(self, i: int) -> float:
        return 0.0 if self.outside(i) else self.law(i).p[self.token(i)]

    def p_draft(self, i: int) -> list[float]:
        """[V] the draft's distribution over target ids; no mass where it cannot be rebuilt."""
        x, stats = self.token(i), self.stats(i)
        if self.one_hot(i):
            return [float(v == x) for v in range(self.vocab)]
        if not self.p_draft_of_token(i) > 0:
            return [0.0] * self.vocab
        row = self.args["draft_logits"][self.kept_row(), i].double().tolist()
        z_x = row[self.draft_id(x)]
        p = []
        for v in range(self.vocab):
            d = self.draft_id(v)
            kept = d >= 0 and row[d] > -math.inf and row[d] >= stats[CUTOFF]
            log_p = stats[TOKEN_LOGPROB] + (row[d] - z_x) / stats[TEMPERATURE] if kept else 0.0
            p.append(math.exp(log_p) if kept else 0.0)
        return p

    # -- what a row emits --

    def argmax(self, i: int) -> int:
        z = self.law(i).z
        return z.index(max(z))

    def target_token(self, i: int) -> int:
        law = self.law(i)
        if self.rule in (slow_lossy.FLY, slow_lossy.ADASD):
            return self.argmax(i)
        if self.rule != GUMBEL or law.temperature == 0:
            return draw(law.p, self.u(i, RESIDUAL))
        best, winner = -math.inf, -1
        for v, p in enumerate(law.p):
            if p > 0:
                score = law.z[v] / law.temperature
                score += gumbel_noise(self.seed, self.position + i, v)
                if score > best:
                    best, winner = score, v
        return winner

    def residual(self, i: int, weight: float) -> list[float]:
        return [
            max(0.0, weight * p - q) for p, q in zip(self.law(i).p, self.p_draft(i), strict=True)
        ]

    def replacement(self, i: int, weight: float) -> int:
        u = self.u(i, RESIDUAL)
        token = draw(self.residual(i, weight), u)
        return token if token >= 0 else draw(self.law(i).p, u)

    def logprob(self, i: int, token: int) -> float:
        if not self.args["raw_logprobs"]:
            return math.log(self.law(i).p[token])
        z = self.raw_row(i)
        if any(math.isnan(x) or x == math.inf for x in z):
            return math.nan
        return math.log(softmax(z, 1.0, [True] * len(z))[token])
