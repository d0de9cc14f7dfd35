"""Plain decoding of a batch: one token a forward, what everything is compared with."""

from __future__ import annotations

import torch

import tapout_kernels as tk

from .decode import BatchDecoder
from .engine import Target, Tokenizer
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

    def _prefill(self, prompts: list[list[int]]) -> None:
        self.target.prefill(prompts)

    def _advance(self, rows: list[Row]) -> list[RoundReport]:
        live = torch.tensor([row.live for row in rows], device=self.target.device)
        with self._clock("verify"):
            logits = self.target.forward(self.last[:, None])[:, 0]  # [B, V]
        with self._clock("kernels"):
            self.last = tk.sample(
                logits, self.sampling, self.rng, rule=self.rule, live=live, backend=self.backend
            )
        emitted = [[token] if token >= 0 else [] for token in self.last.tolist()]
        self.last = self.last.clamp(min=0)
        with self._clock("verify"):
            self.target.commit(emitted)
        return [RoundReport(tokens, 0, 0, 0 if tokens else INVALID, 0, 0, 0) for tokens in emitted]
