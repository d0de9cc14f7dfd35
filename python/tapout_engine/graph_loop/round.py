"""The pieces of a round: functions of tensors alone, each of which can be captured as a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..controller import Controller
from ..lanes import Lane
from .followers import Follower, RoundDrafter
from .state import RowState

Piece = Callable[[], None]


@dataclass(frozen=True)
class Pieces:
    """What a round is made of, in whatever form a loop runs it.

    ``before``, then ``body`` while rows draft (``num_active`` [1] i32 > 0) and fewer than ``slots``
    steps were taken, then that of ``verify`` with the least width that is not below the steps, then
    ``after``. ``steps`` [1] i32 is written by whoever runs them.
    """

    before: Piece
    body: Piece
    verify: dict[int, Piece]
    after: Piece
    num_active: Tensor
    steps: Tensor
    slots: int


class Round:
    """One round of B rows: select, draft, verify, learn, move on.

    Parameters
    ----------
    target : Follower
    drafter : RoundDrafter
    lane : Lane
        Draft and verdict.
    state : RowState
    controller : Controller
    """

    def __init__(
        self,
        target: Follower,
        drafter: RoundDrafter,
        lane: Lane,
        state: RowState,
        controller: Controller,
    ):
        self.target, self.drafter, self.lane = target, drafter, lane
        self.state, self.controller = state, controller
        like = target.decoder.embedding
        self.logits = like.new_zeros(state.rows, state.slots + 1, state.vocab)
        self.steps = torch.zeros(1, dtype=torch.int32, device=like.device)
        self.live = torch.zeros_like(state.live)  # in this round, whatever it ends
        self.table = self._numbers()

    def pieces(self, widths: tuple[int, ...]) -> Pieces:
        return Pieces(
            self.before, self.body, {width: self._verify(width) for width in widths}, self.after,
            self.lane.proposal.num_active, self.steps, self.state.slots,
        )  # fmt: skip

    def prefill(self, row: int, prompt: Sequence[int]) -> None:
        """A request has taken a row; its prompt is read, but for the last token."""
        self.drafter.prefill(row, prompt, self.target.prefill(row, prompt[:-1]))

    def clear(self, row: int) -> None:
        """A row has ended by an error: its entries may be no numbers."""
        self.target.clear(row)
        self.drafter.clear(row)

    def forwards(self, steps: int) -> int:
        """Forwards of a round of so many draft steps, of any model."""
        return 1 + steps + self.drafter.forwards(steps)

    def before(self) -> None:
        state, bandit = self.state, self.controller.bandit
        self.controller.select(state.live, self.lane.backend)
        # A round of nobody drew no noise: its address is the next one's.
        bandit.calls.sub_((~state.live.any()).long())
        self.live.copy_(state.live)
        state.begin()
        self.lane.begin(self.live, state.budget)

    def body(self) -> None:
        self.lane.add(self.drafter.step())

    def after(self) -> None:
        self.lane.verify(self.logits)
        self.drafter.follow(self.lane.verdict)
        self.state.finish(self.lane.verdict)
        self.table.copy_(self._numbers())

    def _verify(self, width: int) -> Piece:
        def verify() -> None:
            last = self.state.recent[:, 1].contiguous()
            ids = self.lane.proposal.input_ids(last, self.state.vocab)[:, : 1 + width]
            hidden = self.target.forward(ids, self.state.rng.position - 1)
            self.logits[:, : 1 + width] = self.target.decoder.logits(hidden)
            self.drafter.read(hidden)

        return verify

    def _numbers(self) -> Tensor:
        """What the host reads, [B, 7 + K + 1 + 2] int64: `Lane.numbers`, steps, who was live."""
        steps = self.steps.long().expand(self.state.rows)
        more = torch.stack((steps, self.live.long()), dim=1)
        return torch.cat((self.lane.numbers(), more), dim=1)
