"""Requests with drafts the target accepts as often as asked: what every benchmark verifies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import tapout_kernels as tk

REFUSED = -50.0  # the target's logit of a draft it shall reject


class Required(NamedTuple):
    """Rows one call has to read: indices into [B * (K+1)] target and [B * K] draft rows."""

    target: list[int]
    draft: list[int]


def required_rows(rule: str, accepted: list[int], slots: int) -> Required:
    """What the rule reads of B requests with ``slots`` drafts, ``accepted[b]`` of them accepted.

    Target rows up to the deciding one; where that is a rejection, the draft row it is compared
    with (``token``). ``block`` looks at every row, ``gumbel`` and ``greedy`` at no draft row.
    """
    target, draft = [], []
    for b, count in enumerate(accepted):
        last = slots if rule == "block" else count
        target += [b * (slots + 1) + j for j in range(last + 1)]
        if rule == "block":
            draft += [b * slots + j for j in range(slots)]
        elif rule == "token" and count < slots:
            draft.append(b * slots + count)
    return Required(target, draft)


class Round:
    """``sets`` buffers of B requests with K drafts over V ids each, made at once.

    ``agreement`` is the share of drafts whose target row equals the draft's, so that they are
    accepted; the target of the others refuses the drafted token.
    """

    def __init__(
        self,
        batch: int,
        slots: int,
        vocab: int,
        dtype: torch.dtype,
        agreement: float,
        rule: str = "token",
        *,
        sets: int = 4,
        device: str = "cpu",
        **filters: float,
    ):
        generator = torch.Generator(device).manual_seed(0)
        self.batch, self.slots, self.vocab, self.dtype = batch, slots, vocab, dtype
        self.rule, self.sets, self.filters = rule, sets, filters
        rows = sets * batch

        def randn(*shape: int) -> Tensor:
            made = torch.empty(*shape, dtype=dtype, device=device)
            for part in made.split(batch):  # no copy of everything in float32
                part.copy_(3 * torch.randn(part.shape, generator=generator, device=device))
            return made

        draft, target = randn(rows, slots, vocab), randn(rows, slots + 1, vocab)
        self.rng = tk.RngState.of(range(rows), device=device)
        self.sampling = tk.SamplingParams.of(batch, device=device, **filters)
        made = self._propose(draft, tk.SamplingParams.of(rows, device=device, **filters))
        target[:, :slots].scatter_(-1, made.tokens[..., None], REFUSED)
        agrees = torch.rand(rows, slots, 1, generator=generator, device=device) < agreement
        for part, source, same in _sets(batch, target[:, :slots], draft, agrees):
            part.copy_(torch.where(same, source, part))
        self.draft, self.target = made.logits.split(batch), target.split(batch)
        self.proposals = [rows_of(made, i * batch, batch) for i in range(sets)]
        rng = self.rng
        self.rngs = [tk.RngState(*x) for x in _sets(batch, rng.seed, rng.round, rng.position)]
        self.verdict = tk.Verdict.empty(batch, slots, device=device)

    def _propose(self, draft: Tensor, sampling: tk.SamplingParams) -> tk.Proposal:
        proposal = tk.Proposal.empty(*draft.shape, draft.dtype, draft.device)
        proposal.reset(self.rng)
        for j in range(self.slots):
            tk.draft_step(draft[:, j], proposal, sampling, self.rng, rule=self.rule)
        return proposal

    def rewind(self, _: int = 0) -> None:
        """Back to the position of the drafts: rule ``gumbel`` has its noise by position."""
        self.rng.position.zero_()

    def verify(self, i: int, backend: str | None = None) -> tk.Verdict:
        i %= self.sets
        return tk.verify(
            self.target[i], self.proposals[i], self.sampling, self.rngs[i], rule=self.rule,
            out=self.verdict, backend=backend,
        )  # fmt: skip

    def inputs(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Target logits, draft logits and drafted tokens, as plain code takes them."""
        i %= self.sets
        return self.target[i], self.draft[i], self.proposals[i].tokens

    def baseline(self, verify: Callable, i: int) -> tuple[Tensor, Tensor]:
        return verify(*self.inputs(i), **self.filters)

    def required(self) -> list[Required]:
        """Of every buffer set, from what the kernels accept of it."""
        self.rewind()
        found = [self.verify(i).num_accepted.tolist() for i in range(self.sets)]
        self.rewind()
        return [required_rows(self.rule, accepted, self.slots) for accepted in found]

    def work(self) -> tuple[int, float]:
        """Bytes of a mean call, and the share of tested drafts that were accepted."""
        required = self.required()
        rows = sum(len(one.target) + len(one.draft) for one in required)
        self.rewind()
        accepted = rejected = 0
        for i in range(self.sets):
            counts = self.verify(i).num_accepted
            accepted += int(counts.sum())
            rejected += int((counts < self.slots).sum())
        self.rewind()
        row_bytes = self.vocab * self.dtype.itemsize
        return rows * row_bytes // self.sets, accepted / (accepted + rejected)


def _sets(batch: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(batch) for x in tensors), strict=True)


def rows_of(proposal: tk.Proposal, begin: int, batch: int) -> tk.Proposal:
    """Some requests of a proposal: views, and a counter of their own."""
    fields = {
        name: value if value is None else value[begin : begin + batch]
        for name, value in vars(proposal).items()
    }
    return tk.Proposal(**{**fields, "num_active": torch.zeros_like(proposal.num_active)})
