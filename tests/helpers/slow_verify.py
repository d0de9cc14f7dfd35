"""``verify`` written again from the text of the contract: float64, one request, one id at a time.

No code in common with the package, nothing clever, no array arithmetic in a decision.  Takes the
operator's arguments and writes its outputs, so that it can stand where a backend does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import slow_lossy
from .slow_law import ACCEPT, BAD_DRAFT, OK
from .slow_request import Request

TOKEN, BLOCK = range(2)  # rules; the others are in slow_request and slow_lossy


@dataclass
class Outcome:
    emitted: list[int]
    accepted: int
    status: int
    accept_prob: list[float]


def in_order(request: Request) -> Outcome:
    """token, gumbel, greedy, lossy rules: row by row up to the deciding one."""
    emitted, probs = [], []
    judge = slow_lossy.Judge(request)
    outcome = decided(request, judge, emitted, probs)
    judge.remember()
    return outcome


def decided(
    request: Request, judge: slow_lossy.Judge, emitted: list[int], probs: list[float]
) -> Outcome:
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
        elif request.rule in slow_lossy.RULES:
            accepted, chance = judge(i)
            probs.append(chance)
            token = x if accepted else judge.replacement(i)
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
