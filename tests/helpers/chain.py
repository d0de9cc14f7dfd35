"""Thousands of replicas of a toy request, drafted, stopped, verified and learnt from as one batch.

Every replica has a bandit group of its own, so the arm and the length of its drafts depend on its
own earlier noise, as they do for a request in production.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tapout_kernels import BanditState, Proposal, StopRules, StopState, Verdict
from tapout_kernels.draft_vocab import DraftVocab
from tapout_kernels.reference.bandit import POLICIES, REWARDS

from .raw import Call

OFF = {"temperature": None, "top_k": None, "top_p": None, "min_p": None}


@dataclass
class Chain:
    """B replicas whose bandit, stop-rule memory and arms persist from prompt to prompt.

    Logits and masks belong to a context, which the last token decides: ``context`` [V].
    """

    call: Call
    target: Tensor  # [C, V] logits of the next token
    draft: Tensor  # [C, D]
    rules: StopRules
    batch: int
    slots: int = 2
    rule: int = 0
    sampling: dict[str, Tensor | None] = field(default_factory=lambda: dict(OFF))
    draft_sampling: dict[str, Tensor | None] = field(default_factory=lambda: dict(OFF))
    target_mask: Tensor | None = None  # [C, W] i32
    draft_mask: Tensor | None = None  # [C, W] i32
    vocab: DraftVocab | None = None
    context: Tensor | None = None  # [V] i64; None: every token is a context of its own
    learner: dict[str, str] = field(default_factory=dict)  # level, policy, reward of the bandit
    prediction: Tensor | None = None  # [C] f32 drafts to make, for predicted_length
    one_hot: bool = False  # the draft table's argmax, proposed without logits

    def __post_init__(self):
        self.bandit = BanditState.create(
            len(self.rules), groups=self.batch, slots=self.slots, **self.learner
        )
        token_level = self.bandit.level == "token"
        slots = self.slots if token_level else None
        self.state = StopState.of(self.batch, self.rules, slots=slots)
        self.group = torch.arange(self.batch, dtype=torch.int32)
        if self.context is None:
            self.context = torch.arange(len(self.target))
        self.arms: list[Tensor] = []  # of every round, [B] or [B, K] each
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
        width = None if self.one_hot else self.draft.shape[1]
        proposal = Proposal.empty(self.batch, self.slots, width, self.draft.dtype)
        verdict = Verdict.empty(self.batch, self.slots)
        self._select(live)
        self._reset(proposal, live, last)
        if self.one_hot:
            self._load(proposal, last)
        else:
            token = last.clone()
            for _ in range(self.slots):
                self._draft_step(proposal, self.context[token], token)
        self._verify(proposal, self.context[proposal.input_ids(last)], verdict)
        self._update(proposal, verdict)
        self.arms.append(self.state.arm.clone())
        self.arms[-1][~live] = -1
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
            arm=self.state.arm, arm_prob=None,
        )  # fmt: skip

    def _reset(self, p: Proposal, live: Tensor, last: Tensor) -> None:
        told = None if self.prediction is None else self.prediction[self.context[last]]
        self.call(
            "proposal_reset", max_length=None, prediction=told, live=live, rows=None,
            **self._table(),
            rng_round=self.round, tokens=p.tokens, length=p.length, out_max_length=p.max_length,
            active=p.active, out_live=p.live, round=p.round, num_active=p.num_active,
            stats=p.stats, stop_reason=p.stop_reason,
        )  # fmt: skip

    def _draft_step(self, p: Proposal, context: Tensor, token: Tensor) -> None:
        mask = self.draft_mask
        self.call(
            "draft_step", logits=self.draft[context], **self.draft_sampling,
            token_mask=None if mask is None else mask[context],
            d2t=None if self.vocab is None else self.vocab.d2t, accept_estimate=None,
            seed=self.keys, position=self.position, round=p.round, max_length=p.max_length,
            rows=None, **self._table(), rule=self.rule, logits_row=None, tokens=p.tokens,
            length=p.length, active=p.active, num_active=p.num_active, kept_logits=p.logits,
            stats=p.stats, stop_reason=p.stop_reason, next_token=token,
        )  # fmt: skip

    def _load(self, p: Proposal, last: Tensor) -> None:
        best = self.draft.argmax(-1)
        if self.vocab is not None:
            best = self.vocab.d2t[best].long()
        source = [last]
        for _ in range(self.slots):
            source.append(best[self.context[source[-1]]])
        self.call(
            "proposal_load", source=torch.stack(source[1:], 1), source_length=None, logits=None,
            **OFF, token_mask=None, d2t=None, t2d=None, rows=None, **self._table(),
            max_length=p.max_length, tokens=p.tokens, length=p.length, active=p.active,
            num_active=p.num_active, stats=p.stats, stop_reason=p.stop_reason,
        )  # fmt: skip

    def _verify(self, p: Proposal, context: Tensor, v: Verdict) -> None:
        mask = self.target_mask
        self.call(
            "verify", target_logits=self.target[context], row_start=None, **self.sampling,
            token_mask=None if mask is None else mask[context], seed=self.keys, rows=None,
            draft_tokens=p.tokens, length=p.length, live=p.live, round=p.round,
            draft_logits=p.logits, logits_row=None,
            t2d=None if self.vocab is None or self.one_hot else self.vocab.t2d, stats=p.stats,
            rule=self.rule,
            raw_logprobs=False, position=self.position, tokens=v.tokens,
            num_accepted=v.num_accepted, num_emitted=v.num_emitted, last_token=v.last_token,
            status=v.status, accept_prob=v.accept_prob, overlap=None, logprobs=None,
            lossy_memory=None,
        )  # fmt: skip

    def _update(self, p: Proposal, v: Verdict) -> None:
        b, table = self.bandit, self._table()
        self.call(
            "bandit_update", arm=self.state.arm, rows=None, draft_tokens=p.tokens, length=p.length,
            stats=p.stats, live=p.live, stop_reason=p.stop_reason, num_accepted=v.num_accepted,
            overlap=None,
            status=v.status, group=self.group, **self._tables(), cost_ratio=b.cost_ratio,
            policy=POLICIES[b.policy], reward=REWARDS[b.reward], arm_prob=None,
            rule_kind=table["rule_kind"], rule_param=table["rule_param"], memory=table["memory"],
        )  # fmt: skip
