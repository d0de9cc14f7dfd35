"""A language model small enough to read: target and drafter for tests and first experiments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .batches import scored
from .history import History

_STATES = 1009  # prime, so that the whole prefix matters


class ToyLM:
    """Logits looked up by a hash of the whole prefix, for a batch of rows of any lengths.

    Two toys with the same ``vocab_size`` and ``seed`` speak the same language; ``noise`` makes
    one of them a worse speaker, hence a drafter. The cache is the list of hashes: a token left
    in it by mistake changes everything after.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(
        self, vocab_size: int = 64, seed: int = 0, sharpness: float = 2.0, noise: float = 0.0
    ):
        self.vocab_size = vocab_size
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(_STATES, vocab_size, generator=generator)
        table += noise * torch.randn(_STATES, vocab_size, generator=generator)
        self.table = sharpness * table

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        self._rows = [History(prompt) for prompt in prompts]
        self._states: list[list[int]] = [[] for _ in prompts]

    def forward(self, input_ids: Tensor) -> Tensor:
        states = []
        for row, cache, new in zip(self._rows, self._states, input_ids.tolist(), strict=True):
            for token in row.feed(new):
                previous = cache[-1] if cache else 0
                cache.append((31 * previous + token + 1) % _STATES)
            states.append(cache[len(cache) - len(new) :])
        return self.table[torch.tensor(states)]  # [B, n, V]

    def step(self, token: Tensor) -> Tensor:
        return self.forward(token[:, None])[:, 0]

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        for row, cache, tokens in zip(self._rows, self._states, emitted, strict=True):
            drop = row.commit(tokens)
            del cache[len(cache) - drop :]

    def score(self, emitted: Sequence[Sequence[int]]) -> Tensor:
        return scored(self, [row.tokens[-1] for row in self._rows], emitted)
