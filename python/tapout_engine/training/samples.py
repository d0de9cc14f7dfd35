"""What a target says of its own accord: sampled in batches, its hidden states kept.

A head is trained on the target's own text, so one pass makes both the text and the features.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import tapout_kernels as tk

from ..models import Decoder

ENOUGH = 0.4  # a batch ends when fewer of its rows than this share are still speaking


@dataclass(frozen=True)
class Turn:
    """Tokens given, and the temperature at which the target goes on until it ends its turn.

    ``reply`` is what follows then: of an own question, the answer.
    """

    tokens: tuple[int, ...]
    temperature: float
    reply: Turn | None = None


@dataclass
class Sample:
    """One text [n] and the target's hidden states [n, hidden] after each of its tokens."""

    tokens: Tensor
    hidden: Tensor


@dataclass
class _Row:
    turn: Turn | None
    tokens: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)  # tokens to come that are not sampled

    def __post_init__(self):
        self.given = list(self.turn.tokens)

    def take(self, sampled: int, ends: Collection[int]) -> None:
        """The next token, given or sampled; without a turn the row has ended."""
        if self.given:
            self.tokens.append(self.given.pop(0))
            return
        self.tokens.append(sampled)
        if sampled in ends:
            self.turn = self.turn.reply
            self.given = [] if self.turn is None else list(self.turn.tokens)


def sample(
    decoder: Decoder, turns: Sequence[Turn], length: int, ends: Collection[int], seed: int
) -> list[Sample]:
    """Let the target speak after each of ``turns``, together.

    Parameters
    ----------
    decoder : Decoder
    turns : sequence of Turn
        The more alike their lengths, the faster.
    length : int
        Most tokens of a text, what was given included.
    ends : collection of int
        Tokens that end a turn.
    seed : int

    Returns
    -------
    list of Sample
        In the order of ``turns``; most of them end where a turn does, some in mid-sentence.
    """
    rows = [_Row(turn) for turn in turns]
    batch, device = len(rows), decoder.embedding.device
    cache = decoder.cache(batch, length)
    rng = tk.RngState.of([tk.mix64(seed, i) for i in range(batch)], device=device)
    width = min(length, *(len(turn.tokens) for turn in turns))
    for row in rows:
        row.tokens, row.given = row.given[:width], row.given[width:]
    states, fed = [], 0
    with torch.no_grad():
        while True:
            ids = torch.tensor([row.tokens[fed:] for row in rows], device=device)
            start = torch.full((batch,), fed, device=device)
            states.append(decoder(ids, start, cache, fed + ids.shape[1]))
            fed += ids.shape[1]
            live = [row for row in rows if row.turn is not None]
            if fed == length or len(live) < ENOUGH * batch:
                break
            _next(decoder.logits(states[-1][:, -1]), rows, rng, ends)
    hidden = torch.cat(states, dim=1)
    return [
        Sample(torch.tensor(row.tokens[: _spoken(row, ends)]), hidden[i, : _spoken(row, ends)])
        for i, row in enumerate(rows)
    ]


def _next(logits: Tensor, rows: list[_Row], rng: tk.RngState, ends: Collection[int]) -> None:
    heat = [row.turn.temperature if row.turn else 0.0 for row in rows]
    sampling = tk.SamplingParams.of(len(rows), heat, device=logits.device)
    for row, token in zip(rows, tk.sample(logits, sampling, rng).tolist(), strict=True):
        if row.turn is None:
            row.tokens.append(row.tokens[-1])  # rows that have ended are fed along
        else:
            row.take(token, ends)


def _spoken(row: _Row, ends: Collection[int]) -> int:
    """Tokens of a row without what was fed along after its end."""
    n = len(row.tokens)
    while row.turn is None and n > 1 and row.tokens[n - 1] in ends and row.tokens[n - 2] in ends:
        n -= 1
    return n
