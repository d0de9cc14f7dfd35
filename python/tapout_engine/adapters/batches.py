"""Rows of tokens of different lengths, and models that are fed several of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Reader(Protocol):
    """A follower that reads tokens as a target does."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """As :meth:`tapout_engine.engine.Target.forward`."""

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        """As :meth:`tapout_engine.engine.Follower.commit`."""


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """[B, longest]; what follows a shorter row is never looked at and written over."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64)


def side_by_side(rows: Sequence[Tensor]) -> Tensor:
    """[n, ..] each -> [B, n, ..], zeros after the shorter ones."""
    if len({len(row) for row in rows}) == 1:
        return torch.stack(list(rows))
    return pad_sequence(list(rows), batch_first=True)


def scored(model: Reader, last: Sequence[int], emitted: Sequence[Sequence[int]]) -> Tensor:
    """Commit; logits [B, n, V or D] where each new token stands. ``last``: each row's last one."""
    width = max(1, *map(len, emitted))
    model.commit([[] for _ in emitted])  # drafts are dropped
    ids = torch.cat((torch.tensor(last)[:, None], padded(emitted)), dim=1)
    logits = model.forward(ids[:, :width])
    model.commit(emitted)
    return logits
