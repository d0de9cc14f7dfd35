"""Plain decoding of a batch: one token a forward, what everything is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

import tapout_kernels as tk

from .decode import BatchDecoder
from .engine import RaggedTarget, Target, Tokenizer, has_static_outputs
from .rows import INVALID, RoundReport, Row
from .rules import require_lossless


class PlainDecoder(BatchDecoder):
    """One token a forward, with the same target, kernels and requests: the baseline.

    Parameters
    ----------
    target : Target
    tokenizer : Tokenizer, optional
    rule : {"token", "block", "gumbel", "greedy"}
    backend : str, optional
    """

    def __init__(
        self,
        target: Target,
        tokenizer: Tokenizer | None = None,
        rule: str = "token",
        backend: str | None = None,
    ):
        require_lossless("PlainDecoder", rule)
        super().__init__(target, tokenizer, rule, backend)
        self.ragged = isinstance(target, RaggedTarget)

    def _prefill(self, prompts: list[list[int]]) -> None:
        self.target.prefill(prompts)
        self.tokens = torch.zeros_like(self.last)

    def _advance(self, rows: list[Row]) -> list[RoundReport]:
        live = [row.live for row in rows]
        ragged = self.ragged and not all(live)
        tokens = self._live_tokens(live) if ragged else self._tokens(live)
        emitted = [[token] if token >= 0 else [] for token in tokens.tolist()]
        self.last = tokens.clamp(min=0)
        with self._clock("verify"):
            self.target.commit(emitted)
        return [RoundReport(tokens, 0, 0, 0 if tokens else INVALID, 0, 0, 0) for tokens in emitted]

    def _tokens(self, live: list[bool]) -> Tensor:
        """Each row's next token [B]; -1 where there is none."""
        with self._clock("verify"):
            logits = self.target.forward(self.last[:, None])[:, 0]  # [B, V]
        with self._clock("kernels"):
            rows = self.repeated.tensor("live", live, torch.bool)
            static = has_static_outputs(self.target)
            self.repeated(("sample", logits.data_ptr()) if static else None, lambda: tk.sample(
                logits, self.sampling, self.rng, rule=self.rule, live=rows, out=self.tokens,
                backend=self.backend,
            ))  # fmt: skip
            return self.tokens

    def _live_tokens(self, live: list[bool]) -> Tensor:
        """The same, without computing rows that have ended."""
        with self._clock("verify"):
            logits = self.target.forward_ragged(self.last[:, None], [int(row) for row in live])
        tokens = torch.full_like(self.last, -1)
        rows = torch.tensor(live, device=self.target.device).nonzero()[:, 0]
        with self._clock("kernels"):
            tokens[rows] = tk.sample(
                logits, self.sampling, self.rng, rule=self.rule, rows=rows.int(),
                backend=self.backend,
            )  # fmt: skip
        return tokens
