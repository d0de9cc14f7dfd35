"""Models that follow rows whose lengths only the device knows.

Between rounds the target's cache holds every token of a row but the last, the drafter's every token
but the last two. Neither is told what was accepted: a round feeds tokens at positions it reads off
``rng.position``, and what a rejected draft left behind there is written over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

import tapout_kernels as tk

from ..models import Decoder
from .state import RowState, upload

PREFILL = 256  # tokens of a prompt that one forward reads


class HasDecoder(Protocol):
    """What the loop takes as target and as drafter: a model with a static cache."""

    decoder: Decoder
    vocab_size: int
    max_length: int | None


class RoundDrafter(Protocol):
    """Drafts for the rows of a :class:`RowState`, and learns on the device what became of it."""

    def prefill(self, row: int, prompt: Sequence[int], states: Tensor) -> None:
        """A request takes a row; ``states`` [1, n - 1, hidden] are the target's, but of the last
        token."""

    def clear(self, row: int) -> None:
        """Nothing of a row may be NaN: what is hidden is still multiplied by 0."""

    def step(self) -> Tensor:
        """Logits [B, V or D] after each row's last token or draft."""

    def read(self, states: Tensor) -> None:
        """The target has read the last tokens and the drafts, [B, 1 + width, hidden]."""

    def forwards(self, steps: int) -> int:
        """Forwards besides those of the steps of a round."""

    def follow(self, verdict: tk.Verdict) -> None:
        """This was emitted; ``recent`` is still what it was before."""


class Follower:
    """A decoder and a cache of fixed size, a row of which is never left.

    Parameters
    ----------
    decoder : Decoder
    rows, slots : int
        The cache's. Rows that have ended are fed too: at the positions they ended at.
    """

    def __init__(self, decoder: Decoder, rows: int, slots: int):
        self.decoder, self.cache = decoder, decoder.cache(rows, slots)

    def prefill(self, row: int, tokens: Sequence[int]) -> Tensor:
        """Write the entries of a row's first tokens, not of others; their states [1, n, hidden]."""
        like, cache = self.decoder.embedding, self.cache.row(row)
        ids = upload(list(tokens), torch.int64, like.device)[None]
        states = [like.new_zeros(1, 0, like.shape[1])]
        for at in range(0, ids.shape[1], PREFILL):
            part = ids[:, at : at + PREFILL]
            start = torch.full((1,), at, device=like.device)
            states.append(self.decoder(part, start, cache, at + part.shape[1]))
        return torch.cat(states, 1)

    def clear(self, row: int) -> None:
        self.cache.row(row).entries.zero_()

    def forward(self, ids: Tensor, start: Tensor) -> Tensor:
        """[B, n] at the positions from ``start`` [B] on: hidden states [B, n, hidden]."""
        return self.decoder(ids, start, self.cache)


class ModelDrafter:
    """A model as drafter: a step feeds the last two tokens of each row, drafts included.

    The last draft of a round is not fed, nor is the target's own token, so after a round in which
    every draft was accepted two tokens are missing, else one or none. Two a step are always enough;
    an entry that is there already is written again as it is. A step that adds no draft to a row
    changes nothing of the row, however often it is run.

    Parameters
    ----------
    model : HasDecoder
    state : RowState
    proposal : Proposal
    slots : int
        Of the cache.
    """

    def __init__(self, model: HasDecoder, state: RowState, proposal: tk.Proposal, slots: int):
        self.follower = Follower(model.decoder, state.rows, slots)
        self.state, self.proposal = state, proposal

    def prefill(self, row: int, prompt: Sequence[int], states: Tensor) -> None:
        self.follower.prefill(row, prompt[:-2])

    def clear(self, row: int) -> None:
        self.follower.clear(row)

    def step(self) -> Tensor:
        hidden, column = self._feed()
        own = hidden.gather(1, column[:, None, None].expand(-1, -1, hidden.shape[-1]))
        return self.follower.decoder.logits(own)[:, 0]

    def read(self, states: Tensor) -> None:
        if states.shape[1] == 1:  # no row drafted: without a step the last but one would be missed
            self._feed()

    def forwards(self, steps: int) -> int:
        return int(steps == 0)

    def follow(self, verdict: tk.Verdict) -> None:
        """The next step does it."""

    def _feed(self) -> tuple[Tensor, Tensor]:
        """Hidden states [B, 2, hidden] of the two tokens, and which is the last one's, [B]."""
        state, proposal = self.state, self.proposal
        first = state.rng.position + proposal.length - 2  # -1 in a row of one token
        start = first.clamp(min=0)
        late = start - first
        at = (proposal.length + late)[:, None] + state.pair
        known = torch.cat((state.recent, proposal.tokens.clamp(min=0)), 1)
        return self.follower.forward(known.gather(1, at), start), 1 - late
