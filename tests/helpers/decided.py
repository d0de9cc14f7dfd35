"""The round of a server as one graph that decides when to stop drafting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from tapout_kernels.round_graph import RoundGraph

from . import raw
from .server import Server


class Decided:
    """``launch`` is ``server.run``; ``width``: the forward that ran, ``steps``: the draft steps."""

    def __init__(
        self,
        server: Server,
        capture: Callable[[Callable[[], None]], torch.cuda.CUDAGraph],
        widths: tuple[int, ...] = (1, 3),
    ):
        self.server, self.widths = server, widths
        device = server.token.device
        self.steps, self.width = (
            torch.zeros(1, dtype=torch.int32, device=device) for _ in range(2)
        )
        before = server.saved()
        self.graph = RoundGraph(
            capture(server.begin), capture(self._body),
            {width: capture(partial(self._verify, width)) for width in widths},
            capture(server.learn), num_active=server.proposal.num_active, steps=self.steps,
            slots=server.proposal.slots,
        )  # fmt: skip
        server.load(before)

    def _body(self) -> None:
        self.server.draft(self.server.drafts.index_select(1, self.steps.long())[:, 0])

    def _verify(self, width: int) -> None:
        self.width.fill_(width)
        self.server.verify()

    def same(self, eager: Server, context: str) -> int:
        """Whether a round left what an eager one did; its draft steps.

        But for the token to draft next: nobody drafts on from it, and eager rounds clear it.
        """
        found, expected = self.server.tensors(), eager.tensors()
        raw.same({name: found[name] for name in found if name != "token"}, expected, context)
        steps = eager.proposal.length.max().item()
        assert self.steps.item() == steps, context
        assert self.width.item() == next(w for w in self.widths if w >= steps), context
        return steps
