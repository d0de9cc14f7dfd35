"""The host's side of a batch: what each request has produced, and when it is finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import torch

import tapout_kernels as tk

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
    lane: int


class Row:
    """One request of a batch on the host: budget, text, and the result so far."""

    def __init__(self, request: Request, key: int, tokenizer: Tokenizer | None, max_length: float):
        self.request = request
        self.max_length = max_length  # of prompt and new tokens together
        self.result = Result(key=key)
        self.stream = TextStream(tokenizer, request.stop)

    @property
    def live(self) -> bool:
        return not self.result.finish_reason

    @property
    def length(self) -> int:
        return len(self.request.prompt) + len(self.result.tokens)

    @property
    def remaining(self) -> int:
        """New tokens until the request's own limit, or the target's if that comes first."""
        wanted = self.request.max_new_tokens - len(self.result.tokens)
        return int(min(wanted, self.max_length - self.length))

    def take(self, report: RoundReport, streams: bool) -> tuple[list[int], str]:
        """Add a round; returns the tokens and, where it ``streams``, the text that are new and
        final."""
        result = self.result
        before = len(result.tokens)
        for token in report.emitted:
            self._add(token)
            if not self.live:
                break
        # An end inside the block leaves accepted drafts out.
        result.accepted.append(min(report.accepted, len(result.tokens) - before))
        result.drafted.append(report.drafted)
        result.arms.append(report.arm)
        result.stop_reasons.append(STOP_REASONS[report.stop_reason])
        if self.live and report.status:
            result.finish_reason = "error"
            result.error = f"round {result.rounds}: {_STATUS_ERRORS[report.status]}"
        if not self.live:
            self.stream.finish()
            result.text = self.stream.text
        text = self.stream.release(final=not self.live) if streams else ""
        return result.tokens[before:], text

    def _add(self, token: int) -> None:
        self.result.tokens.append(token)
        if token in self.request.eos:
            self.result.finish_reason = "eos"
        elif self.stream.push(token):
            self.result.finish_reason = "stop"
        elif not self.remaining:
            self.result.finish_reason = "length"


def check_requests(
    requests: Sequence[Request],
    vocab_size: int,
    tokenizer: Tokenizer | None,
    max_length: float = math.inf,
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
        if len(request.prompt) >= max_length:
            raise EngineError(
                f"{where} prompt must be shorter than the {max_length} tokens that the model can "
                f"read, got {len(request.prompt)}"
            )
        if request.max_new_tokens < 1:
            got = request.max_new_tokens
            raise EngineError(f"{where} max_new_tokens must be at least 1, got {got}")
        _check_sampling(request, where)
        if not -(2**63) <= request.seed < 2**64:
            raise EngineError(f"{where} seed must fit 64 bits, got {request.seed}")
        if request.stop and tokenizer is None:
            raise EngineError(f"{where} stop strings need a decoder with a tokenizer")


def _check_sampling(request: Request, where: str) -> None:
    if not 0 <= request.temperature < float("inf"):
        got = request.temperature
        raise EngineError(f"{where} temperature must be at least 0 and finite, got {got}")
    if not (isinstance(request.top_k, Integral) and 0 <= request.top_k < 2**31):
        got = request.top_k
        raise EngineError(f"{where} top_k must be an integer in [0, 2**31), got {got}")
    if not 0 < request.top_p <= 1:
        raise EngineError(f"{where} top_p must be in (0, 1], got {request.top_p}")
    if not 0 <= request.min_p <= 1:
        raise EngineError(f"{where} min_p must be in [0, 1], got {request.min_p}")


def sampling_params(requests: Sequence[Request], device: torch.device) -> tk.SamplingParams:
    """A parameter that is off in every request is left out: it costs nothing then."""

    def column(name: str, off: float) -> list[float] | float:
        values = [getattr(request, name) for request in requests]
        return off if all(value == off for value in values) else values

    return tk.SamplingParams.of(
        len(requests), column("temperature", 1.0), column("top_k", 0), column("top_p", 1.0),
        column("min_p", 0.0), device=device,
    )  # fmt: skip
