"""Drafts copied from earlier in the same sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PromptLookupDrafter:
    """Finds the last n tokens earlier in the sequence and proposes what followed them.

    The longest match of ``max_ngram`` down to ``min_ngram`` tokens wins, the most recent one of
    its length. The draft is one-hot: nothing was sampled.

    Saxena, "Prompt lookup decoding" (2023); the same idea as vLLM's ``ngram`` method.
    """

    def __init__(self, vocab_size: int, max_ngram: int = 3, min_ngram: int = 1, device=None):
        if not 1 <= min_ngram <= max_ngram:
            raise ValueError(
                "PromptLookupDrafter: min_ngram must be in [1, max_ngram], "
                f"got {min_ngram} and {max_ngram}"
            )
        self.vocab_size = vocab_size
        self.ngrams = range(max_ngram, min_ngram - 1, -1)
        self.device = device

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        self._rows = [_Index(prompt, self.ngrams) for prompt in prompts]

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        for row, tokens in zip(self._rows, emitted, strict=True):
            row.extend(tokens)

    def propose(self, slots: int) -> Tensor:
        drafts = [row.lookup(slots) for row in self._rows]
        padded = [draft + [-1] * (slots - len(draft)) for draft in drafts]
        return torch.tensor(padded, dtype=torch.int64, device=self.device)  # [B, K]

    def score(self, emitted: Sequence[Sequence[int]]) -> Tensor:
        width, said = max(1, *map(len, emitted)), []
        for row, tokens in zip(self._rows, emitted, strict=True):
            first = []
            for token in tokens:
                first += row.lookup(1) or [-1]
                row.extend([token])
            said.append(first + [-1] * (width - len(first)))
        return torch.tensor(said, dtype=torch.int64, device=self.device)


class _Index:
    """Where every n-gram of one row last ended, kept as the row grows."""

    def __init__(self, prompt: Sequence[int], ngrams: range):
        self.ngrams = ngrams
        self.tokens: list[int] = []
        self.ends: dict[tuple[int, ...], int] = {}
        self.extend(prompt)

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            # The newest n-gram is entered only once something follows it.
            for size in self.ngrams:
                if len(self.tokens) >= size:
                    self.ends[tuple(self.tokens[-size:])] = len(self.tokens)
            self.tokens.append(token)

    def lookup(self, slots: int) -> list[int]:
        for size in self.ngrams:
            if len(self.tokens) >= size:
                end = self.ends.get(tuple(self.tokens[-size:]))
                if end is not None:
                    return self.tokens[end : end + slots]
        return []
