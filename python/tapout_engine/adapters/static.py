"""A decoder with a static cache as target or drafter of a whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import tapout_kernels as tk

from ..errors import EngineError
from ..models import Branches, Decoder, StaticCache
from ..models.forwards import Forwards
from .batches import padded, scored

PREFILL = 256  # tokens of a row that one forward reads


class StaticModel:
    """Rows of their own length in one cache that grows by doubling.

    Parameters
    ----------
    decoder : Decoder
        A target and a drafter may share it; each keeps a cache of its own.
    """

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.vocab_size = decoder.config.vocab_size
        self.max_length: int | None = decoder.rotary.length
        self.device, self.dtype = decoder.embedding.device, decoder.embedding.dtype
        self.cache: StaticCache | None = None
        self.keeps_states = False
        self.static_outputs = Forwards.serve(decoder)
        self.forwards: Forwards | None = None

    def keep_states(self) -> None:
        """From the next prefill on, ``states`` [B, slots, hidden] holds the last hidden state of
        every token in the cache, at its position: what draft heads read."""
        self.keeps_states = True

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        longest = max(len(prompt) for prompt in prompts)
        if longest > self.max_length:
            limit = self.max_length
            raise EngineError(f"StaticModel: reads at most {limit} tokens, got {longest}")
        if self.forwards is None or not self.cache.holds(len(prompts), longest):
            self._allocate(len(prompts), 2 * longest)
        self.cached = [0] * len(prompts)  # confirmed tokens of each row in the cache
        self.tail = [list(prompt) for prompt in prompts]  # those that are not; never empty
        # tokens fed to each row since, the first being the last of its tail
        self.fed = [0] * len(prompts)
        while any(len(tail) > 1 for tail in self.tail):
            parts = [tail[: min(len(tail) - 1, PREFILL)] for tail in self.tail]
            self._run(padded(parts), self.cached, [len(part) for part in parts])
            self.cached = [n + len(part) for n, part in zip(self.cached, parts, strict=True)]
            self.tail = [tail[len(p) :] for tail, p in zip(self.tail, parts, strict=True)]

    def _allocate(self, batch: int, slots: int) -> None:
        self.cache = self.decoder.cache(batch, slots)
        self.states = torch.zeros(
            batch, 1, self.decoder.config.hidden_size, dtype=self.dtype, device=self.device
        )
        self.forwards = Forwards(self.decoder, self.cache) if self.static_outputs else None

    @torch.no_grad()
    def forward(self, input_ids: Tensor) -> Tensor:
        batch, n = input_ids.shape
        if self.forwards is not None:
            return self._again(input_ids, [n] * batch).view(batch, n, -1)
        return self.decoder.logits(self.hidden(input_ids))

    @torch.no_grad()
    def forward_ragged(self, input_ids: Tensor, counts: Sequence[int]) -> Tensor:
        if self.forwards is not None:
            return self._again(input_ids, counts)
        states = self.hidden(input_ids, counts)
        if set(counts) == {input_ids.shape[1]}:
            return self.decoder.logits(states.flatten(0, 1))
        rows = [row[:count] for row, count in zip(states, counts, strict=True)]
        return self.decoder.logits(torch.cat(rows))

    def _again(self, input_ids: Tensor, counts: Sequence[int]) -> Tensor:
        """Logits [sum(counts), V], until the next forward."""
        missing, start = self._feed(counts)
        new = zip(missing, input_ids.tolist(), counts, strict=True)
        rows = [[*before, *ids[:count]] for before, ids, count in new]
        self._hold(max(at + len(row) for at, row in zip(start, rows, strict=True)))
        return self.forwards(rows, start, counts, self.states if self.keeps_states else None)

    def step(self, token: Tensor) -> Tensor:
        return self.forward(token[:, None])[:, 0]

    @torch.no_grad()
    def hidden(self, input_ids: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Normed hidden states [B, n, hidden] of what :meth:`forward` is given, or of the first
        ``counts`` tokens of each row."""
        batch, n = input_ids.shape
        counts = [n] * batch if counts is None else counts
        missing, start = self._feed(counts)
        if not any(missing):
            return self._run(input_ids, start, counts)
        ids, columns = _joined(missing, input_ids)
        totals = [len(row) + count for row, count in zip(missing, counts, strict=True)]
        states = self._run(ids, start, totals)
        return states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))

    def _feed(self, counts: Sequence[int]) -> tuple[list[list[int]], list[int]]:
        """The confirmed tokens that each row must be fed first, and after how many others."""
        missing = [
            tail[:-1] if count and not fed else []
            for tail, fed, count in zip(self.tail, self.fed, counts, strict=True)
        ]
        start = [
            n + (len(tail) - 1 + fed if fed else 0)
            for n, tail, fed in zip(self.cached, self.tail, self.fed, strict=True)
        ]
        self.fed = [fed + count for fed, count in zip(self.fed, counts, strict=True)]
        return missing, start

    @torch.no_grad()
    def forward_tree(self, input_ids: Tensor, layout: tk.TreeLayout) -> Tensor:
        missing = [tail[:-1] for tail in self.tail]
        if any(missing):
            self._run(padded(missing), self.cached, [len(row) for row in missing])
            self.cached = [n + len(row) for n, row in zip(self.cached, missing, strict=True)]
            self.tail = [tail[-1:] for tail in self.tail]
        batch, n = input_ids.shape
        self.fed = [n] * batch
        if self.forwards is not None:
            self._hold(max(self.cached) + n)
            states = self.states if self.keeps_states else None
            found = self.forwards(input_ids.tolist(), self.cached, self.fed, states, layout)
            return found.view(batch, n, -1)
        states = self._run(input_ids, self.cached, branches=Branches.of(layout))
        return self.decoder.logits(states)

    def keep_path(self, path: Tensor, num_accepted: Tensor) -> None:
        first = torch.tensor(self.cached, device=self.device) + 1  # the slot of node 0
        tk.compact_kv(self.cache.entries, path, num_accepted, first.int())
        if not self.keeps_states:
            return
        for row, count in enumerate(num_accepted.tolist()):
            nodes = path[row, :count] + first[row]
            self.states[row, first[row] : first[row] + count] = self.states[row, nodes]

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        for row, tokens in enumerate(emitted):
            tail, fed = self.tail[row], self.fed[row]
            if not fed:
                tail.extend(tokens)
                continue
            # Of the last token and the drafts after it, those the emitted ones repeat are right.
            right = min(fed, len(tokens))
            self.cached[row] += len(tail) - 1 + right
            self.tail[row] = [tail[-1], *tokens][right:]
        self.fed = [0] * len(self.tail)

    def score(self, emitted: Sequence[Sequence[int]]) -> Tensor:
        return scored(self, [tail[-1] for tail in self.tail], emitted)

    def _run(
        self, input_ids: Tensor, start: list[int], counts: Sequence[int] | None = None,
        branches: Branches | None = None,
    ) -> Tensor:  # fmt: skip
        length = max(start) + input_ids.shape[1]
        self._hold(length)
        begin = torch.tensor(start, device=self.device)
        ids = input_ids.to(self.device)
        states = self.decoder(ids, begin, self.cache, length, branches, counts)
        if self.keeps_states:
            self._keep(states, start)
        return states

    def last_states(self) -> Tensor:
        count = torch.tensor(self.cached, device=self.device)  # all but each row's last token
        rows = torch.arange(len(count), device=self.device)
        states = self.states[rows, (count - 1).clamp(min=0)]
        return torch.where(count[:, None] > 0, states, 0)

    def _hold(self, length: int) -> None:
        """Room for ``length`` tokens of every row."""
        self.cache.hold(length)
        more = self.cache.slots - self.states.shape[1]
        if self.keeps_states and more > 0:
            self.states = torch.nn.functional.pad(self.states, (0, 0, 0, more))

    def _keep(self, states: Tensor, start: list[int]) -> None:
        for row, at in enumerate(start):
            self.states[row, at : at + states.shape[1]] = states[row]


def _joined(missing: list[list[int]], input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's missing tokens and its ids right after them; the columns of the ids."""
    before = torch.tensor([len(row) for row in missing], device=input_ids.device)
    columns = before[:, None] + torch.arange(input_ids.shape[1], device=input_ids.device)
    ids = torch.nn.functional.pad(padded(missing).to(input_ids.device), (0, input_ids.shape[1]))
    return ids.scatter_(1, columns, input_ids), columns
