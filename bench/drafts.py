"""Requests that draft one token, fresh for every call of a replay: drafting changes them."""

from __future__ import annotations

import checks
import torch
from gpu_cases import Case
from rounds import rows_of

import tapout_kernels as tk


class Drafts:
    """``sets`` buffers of [B, V] logits, and the state of B requests for each of ``calls``."""

    def __init__(self, case: Case, backend: str, device: str, sets: int, calls: int):
        generator = torch.Generator(device).manual_seed(0)
        shape = (case.batch, case.vocab)
        self.logits = [
            (3 * torch.randn(shape, generator=generator, device=device)).to(case.dtype)
            for _ in range(sets)
        ]
        rows = case.batch * calls
        self.all = tk.Proposal.empty(rows, 1, case.vocab, case.dtype, device)
        self.rng = rng = tk.RngState.of(range(rows), device=device)
        parts = [slice(begin, begin + case.batch) for begin in range(0, rows, case.batch)]
        self.proposals = [rows_of(self.all, part.start, case.batch) for part in parts]
        self.rngs = [tk.RngState(rng.seed[x], rng.round[x], rng.position[x]) for x in parts]
        self.sampling = tk.SamplingParams.of(case.batch, device=device, **case.filters)
        self.out = torch.empty(case.batch, dtype=torch.int64, device=device)
        self.case, self.backend = case, backend

    def reset(self) -> None:
        self.all.reset(self.rng)

    def step(self, i: int, backend: str | None = None) -> torch.Tensor:
        return tk.draft_step(
            self.logits[i % len(self.logits)], self.proposals[i], self.sampling, self.rngs[i],
            out=self.out, backend=backend or self.backend,
        )  # fmt: skip

    def check(self, most: int) -> None:
        """Tokens and kept rows of the first sets are the reference's."""
        name = f"draft_step at V={self.case.vocab}"
        for i in range(min(most, len(self.logits))):
            self.reset()
            ours, rows = self.step(i).clone(), self.logits[i][:, None]
            if not torch.equal(self.proposals[i].logits, rows):
                checks.refuse(name, "the kept logits are not the row's")
            self.rng.round.sub_(1)  # the same round again
            self.reset()
            expected = self.step(i, "reference")
            checks.verified(
                name, ours[:, None], expected[:, None], rows, rows[:, :0], self.backend,
                **self.case.filters,
            )  # fmt: skip
