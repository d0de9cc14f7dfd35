"""``verify`` written again from the text of the contract: float64, one request, one id at a time.

No code in common with the package, nothing clever, no array arithmetic in a decision.  Takes the
operator's arguments and writes its outputs, so that it can stand where a backend does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .slow_law import (
    ACCEPT,
    BAD_DRAFT,
    EMPTY,
    OK,
    RESIDUAL,
    Law,
    draw,
    gumbel_noise,
    law_of,
    softmax,
    uniform,
)

TOKEN, BLOCK, GUMBEL, GREEDY = range(4)
TOKEN_LOGPROB, CUTOFF, TEMPERATURE = 4, 5, 6  # columns of stats


# ---- one request --------------------------------------------------------------------------------


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
        weighed = self.rule in (TOKEN, BLOCK) and self.args["draft_logits"] is not None
        return self.outside(i) and weighed and self.p_draft_of_token(i) > 0

    def bad(self, i: int) -> bool:
        """Cannot have been drawn: the draft ends before it."""
        if self.outside(i):
            return not self.foreign(i)
        return self.rule in (TOKEN, BLOCK) and not self.p_draft_of_token(i) > 0

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

    def target_token(self, i: int) -> int:
        law = self.law(i)
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


@dataclass
class Outcome:
    emitted: list[int]
    accepted: int
    status: int
    accept_prob: list[float]


def in_order(request: Request) -> Outcome:
    """token, gumbel, greedy: row by row up to the deciding one."""
    emitted, probs = [], []
    for i in range(request.length + 1):
        law = request.law(i)
        if law.status != OK:
            return Outcome(emitted, i, law.status, probs)
        if i == request.length:
            return Outcome([*emitted, request.target_token(i)], i, OK, probs)
        if request.bad(i):
            return Outcome([*emitted, request.target_token(i)], i, BAD_DRAFT, probs)
        x = request.token(i)
        if request.rule == TOKEN:
            p, q = request.p_target_of_token(i), request.p_draft_of_token(i)
            probs.append(min(1.0, p / q))
            accepted = request.u(i, ACCEPT) * q < p
            token = x if accepted else request.replacement(i, 1.0)
        else:
            token = request.target_token(i)
            accepted = token == x
            probs.append(float(accepted))
        emitted.append(token)
        if not accepted:
            return Outcome(emitted, i, BAD_DRAFT if request.foreign(i) else OK, probs)
    raise AssertionError("the last row always ends a request")


def end_of_draft(request: Request) -> tuple[int, int]:
    """L' and the status that cut the draft there."""
    for i in range(request.length + 1):
        if request.law(i).status != OK:
            return i, request.law(i).status
        if i < request.length and request.bad(i):
            return i, BAD_DRAFT
        if i < request.length and request.foreign(i):
            return i + 1, BAD_DRAFT
    return request.length, OK


def block(request: Request) -> Outcome:
    end, status = end_of_draft(request)
    w, probs = [1.0], []
    for i in range(end):
        p, q = request.p_target_of_token(i), request.p_draft_of_token(i)
        probs.append(min(1.0, p / q))
        w.append(min(1.0, w[i] * p / q))
    tau = 0
    for level in range(1, end + 1):  # all of them: the largest that holds
        u = request.u(level - 1, ACCEPT)
        if level == end:
            holds = u < w[level]
        else:
            s = math.fsum(request.residual(level, w[level]))
            if request.one_hot(level):
                s = w[level] * (1 - request.p_target_of_token(level))
            holds = u * (s + 1 - w[level]) < s or (w[level] == 1 and s == 0)
        tau = level if holds else tau
    emitted = [request.token(i) for i in range(tau)]
    if tau < end:
        emitted.append(request.replacement(tau, w[tau]))
    elif request.law(end).status == OK:
        emitted.append(request.target_token(end))
    return Outcome(emitted, tau, status, probs)


def overlaps(request: Request) -> list[float]:
    out = []
    for i in range(end_of_draft(request)[0]):
        p, q = request.law(i).p, request.p_draft(i)
        out.append(math.fsum(min(a, b) for a, b in zip(p, q, strict=True)))
    return out


# ---- the operator -------------------------------------------------------------------------------


def verify(op: str = "verify", **args: object) -> None:
    """Stands where a backend does: writes the tensors it is given."""
    assert op == "verify"
    args["tokens"].fill_(-1)
    args["accept_prob"].fill_(-1)
    for name in ("num_accepted", "num_emitted", "last_token", "status"):
        args[name].fill_(0)
    for name, value in (("overlap", -1), ("logprobs", 0)):
        if args[name] is not None:
            args[name].fill_(value)
    states = args["seed"].shape[0]
    for b in range(args["draft_tokens"].shape[0]):
        state = b if args["rows"] is None else int(args["rows"][b])
        if bool(args["live"][b]) and 0 <= state < states:
            _write(args, b, Request(args, b, state))


def _write(args: dict, b: int, request: Request) -> None:
    outcome = block(request) if request.rule == BLOCK else in_order(request)
    args["num_accepted"][b], args["status"][b] = outcome.accepted, outcome.status
    args["num_emitted"][b] = len(outcome.emitted)
    for i, token in enumerate(outcome.emitted):
        args["tokens"][b, i] = args["last_token"][b] = token
        if args["logprobs"] is not None:
            args["logprobs"][b, i] = request.logprob(i, token)
    for i, value in enumerate(outcome.accept_prob):
        args["accept_prob"][b, i] = value
    if args["overlap"] is not None:
        for i, value in enumerate(overlaps(request)):
            args["overlap"][b, i] = value
    args["position"][request.state] += len(outcome.emitted)
