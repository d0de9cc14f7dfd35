"""What the device knows of the rows: where they stand, what is left of them, who is live."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import tapout_kernels as tk

from ..requests import Request

_FILTERS = {"top_k": (torch.int32, 0), "top_p": (torch.float32, 1.0), "min_p": (torch.float32, 0.0)}


def filters_of(requests: Sequence[Request]) -> set[str]:
    """The filters that some request uses: a filter without a buffer costs nothing."""
    return {
        name
        for name, (_, off) in _FILTERS.items()
        if any(getattr(request, name) != off for request in requests)
    }


class Admission(NamedTuple):
    """A request, the row it gets and its random key."""

    row: int
    request: Request
    key: int


class RowState:
    """Tensors of B rows that a round reads and moves, and that keep their memory.

    ``rng.position`` [B] is the number of tokens a row has, prompt included. A row that is not live
    keeps every value it has.

    Parameters
    ----------
    rows, slots, vocab : int
        B, K and the target's vocabulary.
    target_limit, draft_limit : int
        The most tokens of a row that the target, and the drafter, can read.
    filters : collection of str
        Which of ``top_k``, ``top_p`` and ``min_p`` requests may use.
    device : torch.device

    Attributes
    ----------
    recent : Tensor
        [B, 2] int64, the last two tokens; the first means nothing in a row of one token.
    left : Tensor
        [B] int32, new tokens until the row ends by length.
    budget : Tensor
        [B] int32, the longest draft of this round.
    eos : Tensor
        [B, V] bool, the tokens that end the row.
    """

    def __init__(
        self,
        rows: int,
        slots: int,
        vocab: int,
        target_limit: int,
        draft_limit: int,
        filters: Collection[str],
        device: torch.device,
    ):
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.rows, self.slots, self.vocab, self.device = rows, slots, vocab, device
        self.target_limit = target_limit
        # A draft of d tokens feeds the target d, and the drafter d - 2, beyond the row's own.
        self.longest = min(target_limit - 1, draft_limit + 1)
        self.filters = frozenset(filters)
        self.rng = tk.RngState.of([0] * rows, 1, device=device)
        self.sampling = tk.SamplingParams(
            zeros(rows, dtype=torch.float32),
            **{name: torch.full((rows,), off, dtype=dtype, device=device)
               for name, (dtype, off) in _FILTERS.items() if name in filters},
        )  # fmt: skip
        self.recent = zeros(rows, 2)
        self.live = zeros(rows, dtype=torch.bool)
        self.left, self.budget = (zeros(rows, dtype=torch.int32) for _ in range(2))
        self.eos = zeros(rows, vocab, dtype=torch.bool)
        self.pair = torch.arange(2, device=device)

    def admit(self, admissions: Sequence[Admission]) -> Tensor:
        """Give rows to requests, in place and without a sync; returns their mask, [B] bool."""
        mask = self.mask([admission.row for admission in admissions])
        prompts = [list(a.request.prompt) for a in admissions]
        lengths = [len(prompt) for prompt in prompts]
        left = [
            min(a.request.max_new_tokens, self.target_limit - n)
            for a, n in zip(admissions, lengths, strict=True)
        ]
        rows = [admission.row for admission in admissions]
        signed = tk.RngState.of([admission.key for admission in admissions]).seed.tolist()
        seed = self._column(rows, signed, torch.int64)
        self.rng.reset_rows(mask, seed, self._column(rows, lengths, torch.int64, 1))
        for name in ("temperature", *self.filters):
            values = [getattr(admission.request, name) for admission in admissions]
            self._put(mask, getattr(self.sampling, name), rows, values)
        self._put(mask, self.left, rows, left)
        for column, back in enumerate((2, 1)):
            tokens = [prompt[-min(back, len(prompt))] for prompt in prompts]
            self._put(mask, self.recent[:, column], rows, tokens)
        self._put_eos(mask, admissions)
        self.live.logical_or_(mask)
        return mask

    def evict(self, rows: Sequence[int]) -> None:
        """These rows are live no longer; nothing else of them changes."""
        self.live.logical_and_(~self.mask(rows))

    def mask(self, rows: Sequence[int]) -> Tensor:
        """[B] bool."""
        return self._column(rows, [True] * len(rows), torch.bool)

    def begin(self) -> None:
        """Before a round: how long drafts may be. The target adds one token of its own."""
        room = (self.longest - self.rng.position).int()
        torch.minimum(self.left - 1, room, out=self.budget).clamp_(0, self.slots)

    def finish(self, verdict: tk.Verdict) -> None:
        """After a round: move on, and end the rows that have come to their end."""
        at = verdict.num_emitted[:, None] + self.pair
        self.recent.copy_(torch.cat((self.recent, verdict.tokens), 1).gather(1, at))
        self.left.sub_(verdict.num_emitted)
        ends = self.eos.gather(1, verdict.tokens.clamp(min=0)) & (verdict.tokens >= 0)
        goes_on = (self.left > 0) & (verdict.status == 0) & ~ends.any(1)
        self.live.logical_and_(goes_on)

    def _put_eos(self, mask: Tensor, admissions: Sequence[Admission]) -> None:
        self.eos.logical_and_(~mask[:, None])
        pairs = [(a.row, token) for a in admissions for token in a.request.eos
                 if 0 <= token < self.vocab]  # fmt: skip
        if pairs:
            row, token = upload(pairs, torch.int64, self.device).unbind(1)
            self.eos.index_put_((row, token), torch.ones_like(row, dtype=torch.bool))

    def _put(self, mask: Tensor, out: Tensor, rows: Sequence[int], values: Sequence) -> None:
        out.copy_(torch.where(mask, self._column(rows, values, out.dtype), out))

    def _column(
        self, rows: Sequence[int], values: Sequence, dtype: torch.dtype, other: int = 0
    ) -> Tensor:
        """[B]: ``values`` in ``rows``, ``other`` elsewhere."""
        column = [other] * self.rows
        for row, value in zip(rows, values, strict=True):
            column[row] = value
        return upload(column, dtype, self.device)


def upload(values: Sequence, dtype: torch.dtype, device: torch.device) -> Tensor:
    """To the device without waiting for it."""
    made = torch.tensor(values, dtype=dtype)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made
