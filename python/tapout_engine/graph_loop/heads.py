"""A draft head beside a target, both of which follow rows whose lengths only the device knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

import tapout_kernels as tk

from ..models import DraftHead
from .followers import PREFILL
from .state import RowState, upload


class HasHead(Protocol):
    """What the loop takes as a head: one that was made for its target."""

    head: DraftHead
    vocab_size: int
    max_length: int | None


class HeadFollower:
    """Drafts with a head whose entries are made of the target's states once there are some.

    Between rounds its cache holds every token of a row but the last, each read beside the target's
    state after the token before. A round's first step reads the last one, the others the drafts,
    beside the head's own features; afterwards all that was emitted, but its last token, is read
    again in one forward, with the states that the verification made of it.

    Parameters
    ----------
    drafter : HasHead
    state : RowState
    proposal : Proposal
    slots : int
        Of the cache.
    """

    def __init__(self, drafter: HasHead, state: RowState, proposal: tk.Proposal, slots: int):
        self.head, self.state, self.proposal = drafter.head, state, proposal
        self.cache = self.head.cache(state.rows, slots)
        like = self.head.embedding
        size = self.head.config.hidden_size
        # The target's states: after the last token but one, then after the last and the drafts.
        self.states = like.new_zeros(state.rows, state.slots + 2, size)
        self.feature = like.new_zeros(state.rows, size)

    def prefill(self, row: int, prompt: Sequence[int], states: Tensor) -> None:
        before = torch.nn.functional.pad(states, (0, 0, 1, 0))  # nothing before the first token
        self.states[row, 0] = before[0, -1]
        ids = upload(list(prompt[:-1]), torch.int64, states.device)[None]
        cache = self.cache.row(row)
        for at in range(0, ids.shape[1], PREFILL):
            part = slice(at, min(at + PREFILL, ids.shape[1]))
            start = torch.full((1,), at, device=states.device)
            self.head(ids[:, part], before[:, part], start, cache, part.stop)

    def clear(self, row: int) -> None:
        self.cache.row(row).entries.zero_()
        self.states[row].zero_()

    def step(self) -> Tensor:
        length = self.proposal.length
        known = torch.cat((self.state.recent[:, 1:], self.proposal.tokens.clamp(min=0)), 1)
        last = known.gather(1, length.long()[:, None])
        first = (length == 0)[:, None]
        before = torch.where(first, self.states[:, 0], self.feature)[:, None]
        start = self.state.rng.position - 1 + length
        feature = self.head(last, before, start, self.cache, self.cache.slots)
        self.feature.copy_(feature[:, 0])
        return self.head.logits(feature)[:, 0]

    def read(self, states: Tensor) -> None:
        self.states[:, 1 : 1 + states.shape[1]] = states

    def forwards(self, steps: int) -> int:
        return 1

    def follow(self, verdict: tk.Verdict) -> None:
        last, drafts = self.state.recent[:, 1:], verdict.tokens[:, :-1].clamp(min=0)
        start = self.state.rng.position - verdict.num_emitted - 1
        ids = torch.cat((last, drafts), 1)
        self.head(ids, self.states[:, :-1].contiguous(), start, self.cache, self.cache.slots)
        at = verdict.num_emitted.long()[:, None, None].expand(-1, 1, self.states.shape[-1])
        self.states[:, :1] = self.states.gather(1, at)
