"""Speculative decoding whose rounds the host enqueues and reads one round late."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import NamedTuple

import torch

from ..controller import Controller
from ..decode import StreamCallback
from ..engine import Tokenizer, max_length
from ..errors import EngineError
from ..lanes import Lane
from ..requests import Request, Result, Times
from ..rows import RoundReport, Row, check_requests
from ..rules import require_lossless
from .followers import Follower, HasDecoder, ModelDrafter
from .heads import HasHead, HeadFollower
from .ring import Ring
from .round import Pieces, Round
from .runners import Runner, chosen_mode, runner_of
from .state import Admission, RowState, filters_of


class Seat(NamedTuple):
    """A request in a row: its place among the requests, and its side on the host."""

    index: int
    row: Row


class GraphDecoder:
    """Emits what :class:`tapout_engine.SpeculativeDecoder` does, from rounds that ask no host.

    Lengths, budgets, ends of sequence, drafts and arms are tensors. The host enqueues a round,
    reads the one before it, streams its text, and gives rows that have ended to the requests that
    wait; nothing is captured again. A row ends inside the round that emits its end of sequence, its
    last token or an error, so the round that was enqueued meanwhile leaves it, and the bandit,
    alone. Only the host sees stop strings: where a request has some, rounds are read before the
    next one is enqueued.

    As many requests as there are rows are decoded round for round as ``SpeculativeDecoder`` decodes
    them, arms included; with more of them a request begins when a row is free, and the bandit
    learns in that order. Tokens of rules ``greedy`` and ``gumbel``, and of any rule where the arm
    is fixed, are those of the request alone with its key.

    Parameters
    ----------
    target : StaticModel
    drafter : StaticModel or HeadDrafter
        Of the target's vocabulary, or a head of the target's. Their weights may be used elsewhere
        too.
    controller : Controller
        Its arms name no drafters. Another decoder may use it between calls of ``generate``.
    tokenizer : Tokenizer, optional
    rule : {"token", "block", "gumbel", "greedy"}
    rows : int
        Requests decoded at once, B.
    capacity : int
        The most tokens of a row; a request ends there by length. Memory is allocated for it, and
        where attention has no kernel of its own (a GPU) every forward reads all of it.
    mode : {"auto", "graph", "replay", "eager", "checked"}
        Who decides how long a round drafts, see :mod:`.runners`. ``auto``: on a GPU one graph a
        round, or replays where driver or device know no conditional nodes; else ``eager``.
    widths : sequence of int, optional
        Drafts that a verification is made for; 0 and K always are among them. On a GPU products of
        another width may be summed in another order. Default: a quarter and half of K.
    backend : str, optional

    Attributes
    ----------
    steps : list of int
        Draft steps of every round of the last call, the one after its end among them.

    Raises
    ------
    EngineError
        For models, arms, a mode or widths that cannot be.
    """

    def __init__(
        self,
        target: HasDecoder,
        drafter: HasDecoder | HasHead,
        controller: Controller,
        tokenizer: Tokenizer | None = None,
        rule: str = "token",
        rows: int = 1,
        capacity: int = 1024,
        mode: str = "auto",
        widths: Sequence[int] | None = None,
        backend: str | None = None,
    ):
        require_lossless("GraphDecoder", rule)
        _require_models(target, drafter)
        controller.bind([""])
        controller.require_predictor(False)
        self.target, self.drafter, self.controller = target, drafter, controller
        self.tokenizer, self.rows = tokenizer, rows
        self.mode = chosen_mode(mode, target.decoder.embedding.device)
        self.widths = _widths(widths, controller.slots)
        self.lane = Lane(
            0, drafter, target, controller, rule, False, backend, lambda part: nullcontext()
        )
        self.capacity = capacity
        self.limit = int(min(capacity, max_length(target)))
        self.draft_limit = int(min(capacity, self.lane.max_length))
        self.prompt_below = min(self.limit, self.draft_limit)
        self.state: RowState | None = None

    def generate(
        self, requests: Sequence[Request], stream: StreamCallback | None = None
    ) -> list[Result]:
        """Continue every request, ``rows`` of them at once.

        The first call allocates and captures, which no time of the results includes; so does one
        with a filter that is new, or after another use of the controller.

        Parameters
        ----------
        requests : sequence of Request
        stream : callable, optional
            ``stream(request, tokens, text)`` after every round, one round late.

        Returns
        -------
        list of Result
            In the order of ``requests``.

        Raises
        ------
        EngineError
            For a request that cannot be decoded; nothing has run then.
        """
        check_requests(requests, self.target.vocab_size, self.tokenizer, self.prompt_below)
        self.times, self.stream = Times(), stream
        self.steps: list[int] = []
        with torch.no_grad():
            self._prepare(requests)
            begin = perf_counter()
            keys = self.controller.keys([request.seed for request in requests])
            rows = [
                Row(request, key, self.tokenizer, self.limit)
                for request, key in zip(requests, keys, strict=True)
            ]
            self._decode(deque(Seat(*pair) for pair in enumerate(rows)))
            self.times.total = perf_counter() - begin
        for row in rows:
            row.result.times = self.times
        return [row.result for row in rows]

    def _decode(self, waiting: deque[Seat]) -> None:
        """Rounds until nobody waits, sits in a row or has a round that was not read."""
        ahead = 0 if any(seat.row.request.stop for seat in waiting) else 1
        self.seats: list[Seat | None] = [None] * self.rows
        flights: deque[list[Seat | None]] = deque()  # who sat where when a round was enqueued
        while True:
            self._admit(waiting)
            if any(self.seats):
                self.runner.launch()
                self.ring.push()
                flights.append(list(self.seats))
            elif not flights:
                return
            while len(flights) > (ahead if any(self.seats) else 0):
                self._read(flights.popleft())

    def _admit(self, waiting: deque[Seat]) -> None:
        free = [row for row, seat in enumerate(self.seats) if seat is None]
        admissions = []
        for place in free[: len(waiting)]:
            self.seats[place] = seat = waiting.popleft()
            admissions.append(Admission(place, seat.row.request, seat.row.result.key))
        if not admissions:
            return
        with self._clock("prefill"):
            # The draft of the row before goes when the next round begins.
            self.controller.state.reset_rows(self.state.admit(admissions))
            for place, request, _ in admissions:
                self.round.prefill(place, request.prompt)

    def _read(self, seats: Sequence[Seat | None]) -> None:
        """The oldest round that was not read, for those who sat in it."""
        n, stopped, table = len(RoundReport._fields), [], self.ring.pop()
        self.steps.append(table[0][-2])
        for place, (seat, (*numbers, _, was_live)) in enumerate(zip(seats, table, strict=True)):
            if seat is None or not was_live:
                continue
            report = RoundReport(numbers[n : n + numbers[0]], *numbers[1:n])
            tokens, text = seat.row.take(report, self.stream is not None)
            if self.stream is not None:
                self.stream(seat.index, tokens, text)
            if not seat.row.live:
                self.seats[place] = None
                if seat.row.result.finish_reason == "stop":
                    stopped.append(place)
                if seat.row.result.error:
                    self.round.clear(place)
        if stopped:
            self.state.evict(stopped)

    def _prepare(self, requests: Sequence[Request]) -> None:
        """Buffers, and graphs of them, unless those of the last call will do."""
        filters, state = filters_of(requests), self.state
        if state is not None and state.filters >= filters and self._bound():
            self.ring.clear()
            state.evict(range(self.rows))
            return
        kept = state.filters if state else frozenset()
        self.state = self.runner = self.round = self.ring = None  # frees what they hold first
        self.controller.begin(self.rows)
        self.memory, self.bandit = self.controller.state, self.controller.bandit
        state = RowState(
            self.rows, self.controller.slots, self.target.vocab_size, self.limit,
            self.draft_limit, filters | kept, self.target.decoder.embedding.device,
        )  # fmt: skip
        self.lane.allocate(self.rows, state.sampling, state.rng)
        slots = self.capacity + self.controller.slots  # of rows at their end, padding lies beyond
        kind = HeadFollower if hasattr(self.drafter, "head") else ModelDrafter
        self.round = Round(
            Follower(self.target.decoder, self.rows, slots),
            kind(self.drafter, state, self.lane.proposal, slots),
            self.lane, state, self.controller,
        )  # fmt: skip
        self.ring = Ring(self.round.table)
        self.runner: Runner = runner_of(self.mode, self.round.pieces(self.widths), self._idle)
        self.state = state

    def _bound(self) -> bool:
        """Whether the controller still is what the rounds are about."""
        return self.controller.state is self.memory and self.controller.bandit is self.bandit

    def _idle(self, pieces: Pieces) -> None:
        """Every piece once; no row is live, and the bandit's count of calls does not move."""
        pieces.before()
        pieces.body()
        for verify in pieces.verify.values():
            verify()
        pieces.after()

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        begin = perf_counter()
        yield
        setattr(self.times, part, getattr(self.times, part) + perf_counter() - begin)


def _require_models(target: object, drafter: object) -> None:
    parts = {"target": (target, ("decoder",)), "drafter": (drafter, ("decoder", "head"))}
    for name, (model, one_of) in parts.items():
        if not any(hasattr(model, part) for part in one_of):
            got = type(model).__name__
            raise EngineError(f"GraphDecoder: {name} must have a static cache, got {got}")
    if getattr(drafter, "target", target) is not target:
        raise EngineError("GraphDecoder: drafter must be a head of target, got one of another")


def _widths(widths: Sequence[int] | None, slots: int) -> tuple[int, ...]:
    """Ascending, 0 and K among them."""
    if widths is None:
        widths = [-(-slots * quarter // 4) for quarter in (1, 2)]
    if any(not 0 <= width <= slots for width in widths):
        raise EngineError(f"widths: expected drafts of [0, {slots}], got {list(widths)}")
    return tuple(sorted({0, *widths, slots}))
