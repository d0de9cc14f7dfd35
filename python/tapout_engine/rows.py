"""The host's side of a batch: what each request has produced, and when it is finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .engine import Tokenizer
from .errors import EngineError
from .requests import Request, Result
from .text import TextStream

STOP_REASONS = ("none", "rule", "max_length", "pre_draft", "not_live", "bad_logits")
_STATUS_ERRORS = (
    None,
    "the target's logits hold NaN or +inf",
    "every logit of the target is -inf",
    "the drafter proposed an id outside the vocabulary, or one of draft probability 0",
    "the target's logits hold NaN or +inf, or are all -inf",
)
INVALID = 4  # after the kernels' four: plain sampling does not say which


class RoundReport(NamedTuple):
    """What the host reads of one row after a round, in one transfer for all rows."""

    emitted: list[int]
    accepted: int
    drafted: int
    status: int
    stop_reason: int
    arm: int


class Row:
    """One request of a batch on the host: budget, text, and the result so far."""

    def __init__(self, request: Request, key: int, tokenizer: Tokenizer | None):
        self.request = request
        self.result = Result(key=key)
        self.stream = TextStream(tokenizer, request.stop)

    @property
    def live(self) -> bool:
        return not self.result.finish_reason

    @property
    def remaining(self) -> int:
        return self.request.max_new_tokens - len(self.result.tokens)

    def take(self, report: RoundReport) -> tuple[list[int], str]:
        """Add a round; returns the tokens and the text that are new and final."""
        result = self.result
        result.accepted.append(report.accepted)
        result.drafted.append(report.drafted)
        result.arms.append(report.arm)
        result.stop_reasons.append(STOP_REASONS[report.stop_reason])
        before = len(result.tokens)
        for token in report.emitted:
            self._add(token)
            if not self.live:
                break
        if self.live and report.status:
            result.finish_reason = "error"
            result.error = f"round {result.rounds}: {_STATUS_ERRORS[report.status]}"
        if not self.live:
            self.stream.finish()
            result.text = self.stream.text
        return result.tokens[before:], self.stream.release(final=not self.live)

    def _add(self, token: int) -> None:
        self.result.tokens.append(token)
        if token in self.request.eos:
            self.result.finish_reason = "eos"
        elif self.stream.push(token):
            self.result.finish_reason = "stop"
        elif not self.remaining:
            self.result.finish_reason = "length"


def check_requests(
    requests: Sequence[Request], vocab_size: int, tokenizer: Tokenizer | None
) -> None:
    """Refuse what cannot be decoded, before anything runs."""
    if not requests:
        raise EngineError("generate: requests must hold at least one request, got none")
    for i, request in enumerate(requests):
        where = f"generate: request {i}:"
        if not len(request.prompt):
            raise EngineError(f"{where} prompt must hold at least one token, got none")
        if not 0 <= min(request.prompt) <= max(request.prompt) < vocab_size:
            raise EngineError(f"{where} prompt holds a token outside [0, {vocab_size})")
        if request.max_new_tokens < 1:
            got = request.max_new_tokens
            raise EngineError(f"{where} max_new_tokens must be at least 1, got {got}")
        if not 0 <= request.temperature < float("inf"):
            got = request.temperature
            raise EngineError(f"{where} temperature must be at least 0 and finite, got {got}")
        if not -(2**63) <= request.seed < 2**64:
            raise EngineError(f"{where} seed must fit 64 bits, got {request.seed}")
        if request.stop and tokenizer is None:
            raise EngineError(f"{where} stop strings need a decoder with a tokenizer")
