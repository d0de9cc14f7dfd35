"""Which row of per-request state belongs to a batch row."""

from __future__ import annotations

import torch
from torch import Tensor


class StateRows:
    """``rows`` [B] i32 as safe indices into ``count`` rows of state; None is the identity."""

    def __init__(self, rows: Tensor | None, count: int, device: torch.device):
        if rows is None:
            self.index = torch.arange(count, device=device)
            self.known = torch.ones(count, dtype=torch.bool, device=device)
        else:
            self.known = (rows >= 0) & (rows < count)
            self.index = torch.where(self.known, rows, 0).long()

    def of(self, state: Tensor | None) -> Tensor | None:  # [R, ...] -> [B, ...]
        return None if state is None else state[self.index]

    def add(self, state: Tensor, values: Tensor) -> None:
        """``state[rows[b]] += values[b]`` for the rows that exist."""
        known = self.known.view(-1, *[1] * (values.dim() - 1))
        state.index_add_(0, self.index, torch.where(known, values, 0).to(state.dtype))


def write_rows(state: Tensor, index: Tensor, takes_part: Tensor, values: Tensor) -> None:
    """``state[index[b]] = values[b]`` where b takes part; the others may name anything."""
    spare = torch.cat([state, state[:1]])  # its last row takes what nobody asked for
    spare[torch.where(takes_part, index, state.shape[0])] = values
    state.copy_(spare[:-1])
