"""Where the numbers of a round wait for the host, which reads them while the next one runs."""

from __future__ import annotations

import torch
from torch import Tensor


class Ring:
    """Copies of a table in the host's memory, pinned beside a GPU; none is waited for when made.

    Parameters
    ----------
    table : Tensor
        What the device writes at the end of every round.
    depth : int
        Copies that may wait at once.
    """

    def __init__(self, table: Tensor, depth: int = 2):
        self.table = table
        cuda = table.is_cuda
        self.copies = [torch.empty_like(table, device="cpu", pin_memory=cuda) for _ in range(depth)]
        self.events = [torch.cuda.Event() if cuda else None for _ in range(depth)]
        self.pushed = self.popped = 0

    def __len__(self) -> int:
        return self.pushed - self.popped

    def push(self) -> None:
        """Enqueue a copy of the table as the rounds so far leave it."""
        if len(self) == len(self.copies):
            raise RuntimeError(f"Ring.push: expected at most {len(self.copies)} copies to wait")
        place = self.pushed % len(self.copies)
        self.copies[place].copy_(self.table, non_blocking=True)
        if self.events[place] is not None:
            self.events[place].record()
        self.pushed += 1

    def pop(self) -> list[list[int]]:
        """The oldest copy, once its round has ended."""
        place = self.popped % len(self.copies)
        if self.events[place] is not None:
            self.events[place].synchronize()
        self.popped += 1
        return self.copies[place].tolist()

    def clear(self) -> None:
        """Forget what was not read."""
        self.popped = self.pushed
