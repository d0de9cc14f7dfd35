"""A whole round on one device, as a server runs it: select, reset, draft, verify, learn."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState, SamplingParams, StopRules, StopState, Verdict

FILTERS = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}


class Server:
    """Buffers of one batch; ``run`` is a round that never allocates a result or asks the host."""

    def __init__(
        self,
        device: str,
        rule: str = "token",
        batch: int = 8,
        slots: int = 3,
        vocab: int = 5000,
        filters: dict[str, float] | None = None,
        backend: str | None = None,
    ):
        generator = torch.Generator().manual_seed(batch)
        drafts = torch.randn(batch, slots, vocab, generator=generator)
        target = torch.cat([drafts, drafts[:, :1]], 1) + torch.randn(
            batch, slots + 1, vocab, generator=generator
        )
        self.drafts, self.target = (x.bfloat16().to(device) for x in (drafts, target))
        self.rule = rule
        self.sampling = SamplingParams.of(batch, **(filters or {}), device=device)
        self.rules = StopRules(
            ("fixed_length", {"n": slots}), ("svip", {"threshold": 2.5}), "adaedl", device=device
        )
        self.state = StopState.of(batch, self.rules)
        self.rng = RngState.of(range(batch), device=device)
        self.proposal = Proposal.empty(batch, slots, vocab, torch.bfloat16, device)
        self.verdict = Verdict.empty(batch, slots, device=device)
        self.bandit = tk.BanditState.create(
            len(self.rules), slots=slots, policy="thompson_gaussian", device=device
        )
        self.max_length = torch.full((batch,), slots, dtype=torch.int32, device=device)
        self.live = torch.ones(batch, dtype=torch.bool, device=device)
        self.token = torch.zeros(batch, dtype=torch.int64, device=device)

        self._where = {"backend": backend}
        self._table = {"rules": self.rules, "state": self.state}

    def run(self) -> None:
        self.begin()
        for slot in range(self.proposal.slots):
            self.draft(self.drafts[:, slot])
        self.verify()
        self.learn()

    def begin(self) -> None:
        tk.bandit_select(self.bandit, live=self.live, out=self.state.arm, **self._where)
        self.proposal.reset(
            self.rng, **self._table, max_length=self.max_length, live=self.live, **self._where
        )

    def draft(self, logits: Tensor) -> None:  # [B, V]
        tk.draft_step(
            logits, self.proposal, self.sampling, self.rng, **self._table, rule=self.rule,
            out=self.token, **self._where,
        )  # fmt: skip

    def verify(self) -> None:
        tk.verify(
            self.target, self.proposal, self.sampling, self.rng, rule=self.rule, out=self.verdict,
            **self._where,
        )  # fmt: skip

    def learn(self) -> None:
        tk.bandit_update(
            self.bandit, self.state.arm, self.proposal, self.verdict, **self._table, **self._where
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything a round reads or writes."""
        parts = ("sampling", "state", "rng", "proposal", "verdict", "bandit")
        found = {
            name: getattr(self, name)
            for name in ("drafts", "target", "max_length", "live", "token")
        }
        for part in parts:
            for field in fields(getattr(self, part)):
                found[f"{part}.{field.name}"] = getattr(getattr(self, part), field.name)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def load(self, values: dict[str, Tensor]) -> None:
        """In place: a captured graph goes on reading the same memory."""
        for name, value in self.tensors().items():
            value.copy_(values[name])

    def saved(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.tensors().items()}

    def another_day(self, seed: int) -> None:
        """Other seeds, limits, dead rows, logits and tables of arms, in place."""
        generator = torch.Generator().manual_seed(seed)
        batch, slots = self.proposal.batch, self.proposal.slots

        def set_to(tensor: Tensor, value: Tensor) -> None:
            tensor.copy_(value.to(tensor.dtype))

        set_to(self.rng.seed, torch.randint(0, 1 << 62, (batch,), generator=generator))
        set_to(self.max_length, torch.randint(0, slots + 1, (batch,), generator=generator))
        set_to(self.live, torch.rand(batch, generator=generator) < 0.8)
        noise = torch.randn(self.drafts.shape, generator=generator)
        set_to(self.drafts, self.target[:, :-1].cpu() + noise)
        count = torch.randint(0, 9, self.bandit.count.shape, generator=generator)
        set_to(self.bandit.count, count)
        set_to(self.bandit.reward_sum, 0.5 * count)
