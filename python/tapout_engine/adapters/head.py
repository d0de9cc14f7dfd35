"""A draft head that follows its target: it reads the hidden states of the target's forwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

import tapout_kernels as tk

from ..models import Branches, DraftHead, StaticCache
from ..models.head_forwards import HeadForwards
from ..models.linear import weights_read
from .batches import padded, scored, side_by_side
from .static import PREFILL, StaticModel


class HeadDrafter:
    """Drafts with a head; the first step of a round also reads what was confirmed since.

    A cache entry at position p is made of token p and the target's hidden state after token p - 1.
    Entries made of the head's own features are written over once the target has spoken.

    Parameters
    ----------
    head : DraftHead
        Trained for the target's decoder.
    target : StaticModel
        Prefilled before this drafter is, and committed to before it, each round.
    """

    def __init__(self, head: DraftHead, target: StaticModel):
        target.keep_states()
        self.head, self.target = head, target
        self.vocab_size, self.max_length = target.vocab_size, target.max_length
        self.dtype, self.device = target.dtype, target.device
        self.draft_vocab = tk.DraftVocab(head.d2t)
        self.cost = weights_read(head) / weights_read(target.decoder)
        self.static_outputs = HeadForwards.serve(head)
        self.forwards: HeadForwards | None = None

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        longest = max(len(prompt) for prompt in prompts)
        if self.forwards is None or not self.cache.holds(len(prompts), longest):
            self.cache: StaticCache = self.head.cache(len(prompts), 2 * longest)
            serves = self.static_outputs
            self.forwards = HeadForwards(self.head, self.cache) if serves else None
        self.entries = [0] * len(prompts)  # of confirmed tokens, in the cache
        self.tail = [list(prompt) for prompt in prompts]  # confirmed tokens without; never empty
        self.drafting = self.scoring = 0  # steps of this round, and tokens that are not drafts
        while any(len(tail) > 1 for tail in self.tail):
            parts = [tail[: min(len(tail) - 1, PREFILL)] for tail in self.tail]
            self._read(parts)
            self._advance([len(part) for part in parts])

    @torch.no_grad()
    def step(self, token: Tensor) -> Tensor:
        if self.forwards is not None:
            return self._again(token)
        if self.drafting == 0:
            states = self._read(self.tail)
            self.feature = states[:, -1:]
            if len({len(tail) for tail in self.tail}) > 1:
                last = [row[len(tail) - 1] for row, tail in zip(states, self.tail, strict=True)]
                self.feature = torch.stack(last)[:, None]
        else:
            begin = self._next()
            self.feature = self._run(token[:, None], self.feature, begin, counts=[1] * len(begin))
        self.drafting += 1
        return self.head.logits(self.feature)[:, 0]

    def _next(self) -> list[int]:
        """Where each row's draft stands that is read next."""
        rows = zip(self.entries, self.tail, strict=True)
        return [n + len(tail) + self.drafting - 1 for n, tail in rows]

    def _again(self, token: Tensor) -> Tensor:
        """A step in the memory of the last one."""
        if self.drafting == 0:
            ends = [n + len(tail) for n, tail in zip(self.entries, self.tail, strict=True)]
            self.cache.hold(max(ends))
            self.forwards.read(self.tail, self.entries, self.target.states)
        else:
            begin = self._next()
            self.cache.hold(max(begin) + 1)
            self.forwards.step(token.tolist(), begin)
        self.drafting += 1
        return self.forwards.logits

    @torch.no_grad()
    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits [B, n, D] after confirmed tokens, the first being each row's last one, from the
        target's own states: nothing was drafted since the last commit."""
        before = torch.tensor([len(tail) - 1 for tail in self.tail])
        states = self._read(
            [[*tail[:-1], *ids] for tail, ids in zip(self.tail, input_ids.tolist(), strict=True)]
        )
        self.scoring = input_ids.shape[1]
        columns = before[:, None] + torch.arange(input_ids.shape[1])
        return self.head.logits(states.take_along_dim(columns[..., None].to(self.device), 1))

    @torch.no_grad()
    def expand(self, token: Tensor, draft: tk.TreeDraft, level: int) -> Tensor:
        if level == 0:
            logits = self.step(token[:, 0])[:, None]
            self.seen = torch.zeros(len(token), 1, 0, dtype=torch.bool, device=self.device)
            return logits
        if self.forwards is not None:
            return self._expand_again(token.tolist(), draft.parent_row[level].tolist())
        parent = draft.parent_row[level].long().clamp(min=0)[..., None]  # [B, W, 1]
        states = self.feature.gather(1, parent.expand(-1, -1, self.feature.shape[-1]))
        seen = self.seen.gather(1, parent.expand(-1, -1, self.seen.shape[-1]))
        start = [n + len(tail) for n, tail in zip(self.entries, self.tail, strict=True)]
        position = torch.tensor(start, device=self.device)[:, None] + (level - 1)
        branches = Branches.after(seen, position.expand_as(token))
        self.feature = self._run(token, states, start, branches)
        self.seen = branches.seen
        return self.head.logits(self.feature)

    def _expand_again(self, tokens: list[list[int]], parents: list[list[int]]) -> Tensor:
        """A level in the memory of the round before."""
        start = [n + len(tail) for n, tail in zip(self.entries, self.tail, strict=True)]
        self.cache.hold(max(start) + sum(self.forwards.widths) + len(tokens[0]))
        self.forwards.expand(tokens, start, parents)
        return self.forwards.logits.view(len(tokens), len(tokens[0]), -1)

    def score(self, emitted: Sequence[Sequence[int]]) -> Tensor:
        return scored(self, [tail[-1] for tail in self.tail], emitted)

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        read = [0] * len(self.tail)
        right = self.scoring or min(self.drafting, 1)  # of the last token and those after it
        if right:  # a row without new tokens keeps its last one: no tail is ever empty
            read = [
                len(tail) - 1 + min(len(new), right)
                for tail, new in zip(self.tail, emitted, strict=True)
            ]
        self.drafting = self.scoring = 0
        for tail, tokens in zip(self.tail, emitted, strict=True):
            tail.extend(tokens)
        self._advance(read)

    def _advance(self, read: Sequence[int]) -> None:
        self.entries = [n + more for n, more in zip(self.entries, read, strict=True)]
        self.tail = [tail[n:] for tail, n in zip(self.tail, read, strict=True)]

    def _read(self, parts: list[list[int]]) -> Tensor:
        """Feed confirmed tokens, each beside the target's state after the token before it."""
        ids = padded(parts).to(self.device)
        before = [
            self._before(row, at, len(part))
            for row, (at, part) in enumerate(zip(self.entries, parts, strict=True))
        ]
        states = side_by_side(before)
        return self._run(ids, states, self.entries, counts=[len(part) for part in parts])

    def _before(self, row: int, at: int, count: int) -> Tensor:
        """[count, hidden]: the target's states before tokens ``at`` and after; zeros before 0."""
        known = self.target.states[row, max(at - 1, 0) : max(at + count - 1, 0)]
        return known if at or not count else functional.pad(known, (0, 0, 1, 0))

    def _run(
        self, ids: Tensor, states: Tensor, start: list[int], branches: Branches | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:  # fmt: skip
        length = max(start) + (ids.shape[1] if branches is None else branches.among)
        self.cache.hold(length)
        begin = torch.tensor(start, device=self.device)
        return self.head(ids, states, begin, self.cache, length, branches, counts)
