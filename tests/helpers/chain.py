"""Thousands of replicas of a toy request, drafted, stopped, verified and learnt from as one batch.

Every replica has a bandit group of its own, so the arm and the length of its drafts depend on its
own earlier noise, as they do for a request in production.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tapout_kernels import BanditState, Proposal, StopRules, StopState, Verdict
from tapout_kernels.reference.bandit import POLICIES, REWARDS

from .raw import Call

SIMPLE = {"temperature": None, "top_k": None, "top_p": None}


@dataclass
class Chain:
    """B replicas whose bandit, stop-rule memory and arms persist from prompt to prompt."""

    call: Call
    target: Tensor  # [V, V] logits of the next token, by the last one
    draft: Tensor  # [V, V]
    rules: StopRules
    batch: int
    slots: int = 2
    sampling: dict[str, Tensor | None] = field(default_factory=lambda: dict(SIMPLE))
    draft_sampling: dict[str, Tensor | None] = field(default_factory=lambda: dict(SIMPLE))

    def __post_init__(self):
        self.bandit = BanditState.create(len(self.rules), groups=self.batch, slots=self.slots)
        self.state = StopState.of(self.batch, self.rules)
        self.group = torch.arange(self.batch, dtype=torch.int32)
        self.arms: list[Tensor] = []  # of every round, [B] each
        self.lengths: list[Tensor] = []

    def prompt(self, keys: Tensor, start: int, wanted: int) -> Tensor:
        """[B, wanted] tokens of one prompt; a replica that has enough is a dead row."""
        self.keys, self.round = keys, torch.zeros_like(keys)
        self.position = torch.zeros_like(keys)
        found = torch.full((self.batch, wanted + self.slots + 1), -1)
        count = torch.zeros(self.batch, dtype=torch.int64)
        last = torch.full((self.batch,), start)
        while (count < wanted).any():
            verdict = self._round(last, live=count < wanted)
            columns = count[:, None] + torch.arange(self.slots + 1)
            emitted = torch.where(verdict.tokens >= 0, verdict.tokens, -1)
            here = emitted >= 0
            columns = torch.where(here, columns, found.shape[1] - 1)
            found.scatter_(1, columns, torch.where(here, emitted, -1))
            count += verdict.num_emitted
            last = torch.where(verdict.num_emitted > 0, verdict.last_token, last)
        return found[:, :wanted]

    def _round(self, last: Tensor, live: Tensor) -> Verdict:
        proposal = Proposal.empty(self.batch, self.slots, self.target.shape[0])
        verdict = Verdict.empty(self.batch, self.slots)
        self._select(live)
        self._reset(proposal, live)
        token = last.clone()
        for _ in range(self.slots):
            self._draft_step(proposal, self.draft[token], token)
        self._verify(proposal, self.target[proposal.input_ids(last)], verdict)
        self._update(proposal, verdict)
        self.arms.append(torch.where(live, self.state.arm, -1))
        self.lengths.append(proposal.length.clone())
        return verdict

    def _table(self) -> dict[str, Tensor]:
        rules, state = self.rules, self.state
        return {
            "rule_kind": rules.kind,
            "rule_param": rules.param,
            "arm": state.arm,
            "memory": state.memory,
        }

    def _tables(self) -> dict[str, Tensor]:
        names = ("count", "reward_sum", "reward_sq", "tokens", "cost", "params")
        return {name: getattr(self.bandit, name) for name in names}

    def _select(self, live: Tensor) -> None:
        b = self.bandit
        self.call(
            "bandit_select", **self._tables(), seed=b.seed, group=self.group, live=live, rows=None,
            policy=POLICIES[b.policy], reward=REWARDS[b.reward], slots=self.slots, calls=b.calls,
            arm=self.state.arm,
        )  # fmt: skip

    def _reset(self, p: Proposal, live: Tensor) -> None:
        self.call(
            "proposal_reset", max_length=None, live=live, **self._table(), rng_round=self.round,
            tokens=p.tokens, length=p.length, out_max_length=p.max_length, active=p.active,
            out_live=p.live, round=p.round, num_active=p.num_active, stats=p.stats,
            stop_reason=p.stop_reason,
        )  # fmt: skip

    def _draft_step(self, p: Proposal, logits: Tensor, token: Tensor) -> None:
        self.call(
            "draft_step", logits=logits, **self.draft_sampling, seed=self.keys, round=p.round,
            max_length=p.max_length, **self._table(), rule=0, tokens=p.tokens, length=p.length,
            active=p.active, num_active=p.num_active, kept_logits=p.logits, stats=p.stats,
            stop_reason=p.stop_reason, next_token=token,
        )  # fmt: skip

    def _verify(self, p: Proposal, logits: Tensor, v: Verdict) -> None:
        self.call(
            "verify", target_logits=logits, **self.sampling, seed=self.keys,
            draft_tokens=p.tokens, length=p.length, live=p.live, round=p.round,
            draft_logits=p.logits, stats=p.stats, rule=0, position=self.position,
            tokens=v.tokens, num_accepted=v.num_accepted, num_emitted=v.num_emitted,
            last_token=v.last_token, status=v.status, accept_prob=v.accept_prob,
        )  # fmt: skip

    def _update(self, p: Proposal, v: Verdict) -> None:
        b, table = self.bandit, self._table()
        self.call(
            "bandit_update", arm=self.state.arm, rows=None, draft_tokens=p.tokens, length=p.length,
            live=p.live, stop_reason=p.stop_reason, num_accepted=v.num_accepted, status=v.status,
            group=self.group, **self._tables(), cost_ratio=b.cost_ratio, reward=REWARDS[b.reward],
            rule_kind=table["rule_kind"], rule_param=table["rule_param"], memory=table["memory"],
        )  # fmt: skip
