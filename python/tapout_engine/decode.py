"""Speculative decoding of a batch: draft, stop, verify, learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from time import perf_counter

import torch
from torch import Tensor

import tapout_kernels as tk

from .controller import Controller
from .engine import Drafter, RaggedTarget, StatefulTarget, Target, Tokenizer, max_length
from .lanes import Lane
from .repeated import Repeated
from .requests import Request, Result, Times
from .rows import RoundReport, Row, check_requests, sampling_params
from .rules import require_allowed
from .scoring import Scorer, Verified

StreamCallback = Callable[[int, list[int], str], None]
"""Called after each round of each row: its index, its new tokens, its new text."""

Predictor = Callable[[Tensor, Tensor | None], Tensor]
"""How long a draft should be, [B] float32: of each row's last token [B] int64 and, where the target
shows them, the hidden states [B, hidden] after the token before it."""


class Clock:
    """Adds to the time of a part: the host's, on a GPU that to enqueue unless it reads results."""

    __slots__ = ("begin", "part", "times")

    def __init__(self, times: Times, part: str):
        self.times, self.part = times, part

    def __enter__(self) -> None:
        self.begin = perf_counter()

    def __exit__(self, *error: object) -> None:
        spent = perf_counter() - self.begin
        setattr(self.times, self.part, getattr(self.times, self.part) + spent)


class BatchDecoder:
    """What decoders share: admitting requests, running rounds, collecting results."""

    def __init__(self, target: Target, tokenizer: Tokenizer | None, rule: str, backend: str | None):
        self.target = target
        self.max_length = self.prompt_below = max_length(target)
        self.tokenizer = tokenizer
        self.rule = rule
        self.backend = backend
        self.requests = 0

    def generate(
        self, requests: Sequence[Request], stream: StreamCallback | None = None
    ) -> list[Result]:
        """Continue every request; rows of a batch finish on their own.

        Parameters
        ----------
        requests : sequence of Request
        stream : callable, optional
            ``stream(row, tokens, text)`` after every round of every unfinished row.

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
        self.times = Times()
        begin = perf_counter()
        with torch.no_grad():
            rows = self._admit(requests)
            while any(row.live for row in rows):
                reports = self._advance(rows)
                for index, (row, report) in enumerate(zip(rows, reports, strict=True)):
                    if row.live:
                        tokens, text = row.take(report, stream is not None)
                        if stream is not None:
                            stream(index, tokens, text)
        self.times.total = perf_counter() - begin
        for row in rows:
            row.result.times = self.times
        return [row.result for row in rows]

    def _admit(self, requests: Sequence[Request]) -> list[Row]:
        keys = self._keys([request.seed for request in requests])
        prompts = [list(request.prompt) for request in requests]
        device = self.target.device
        self.rng = tk.RngState.of(keys, [len(prompt) for prompt in prompts], device=device)
        self.sampling = sampling_params(requests, device)
        self.last = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        self.repeated = Repeated(device, self.backend)
        with self._clock("prefill"):
            self._prefill(prompts)
        return [
            Row(request, key, self.tokenizer, self.max_length)
            for request, key in zip(requests, keys, strict=True)
        ]

    def _keys(self, seeds: Sequence[int]) -> list[int]:
        first, self.requests = self.requests, self.requests + len(seeds)
        return [tk.mix64(seed, first + i) for i, seed in enumerate(seeds)]

    def _clock(self, part: str) -> Clock:
        return Clock(self.times, part)


class SpeculativeDecoder(BatchDecoder):
    """Drafts with one model, verifies with another, and lets a bandit pick the stop rule.

    Parameters
    ----------
    target : Target
    drafter : AutoregressiveDrafter or BlockDrafter, or a mapping of names to them
        Must share the target's vocabulary. Of several, an arm says which one drafts.
    controller : Controller
        Its arms, its bandit and its number of draft slots K.
    tokenizer : Tokenizer, optional
        For text, streaming and stop strings.
    rule : {"token", "block", "gumbel", "greedy"}
        How drafts are accepted; ``greedy`` decodes at temperature 0 whatever requests say. A lossy
        rule, see :func:`tapout_kernels.verify`, drafts as ``token`` does.
    early_exit : bool
        Stop asking the drafter once no row drafts any more, which the host must read after each
        draft step. Off: K steps and one host read a round, fewer steps only where a model could
        not read more tokens; of several drafters the host also reads which. Tokens are the same.
    backend : str, optional
        Of every kernel, see :func:`tapout_kernels.available_backends`.
    predictor : callable, optional
        For arms of ``predicted_length``, asked before every round: ``predictor(last, states)``.
        ``states`` are those of a :class:`~tapout_engine.engine.StatefulTarget`, None of others.
        Whatever it says, the output has the target's law.
    allow_lossy : bool
        Must be True for a rule named ``lossy_*``: the output has not the target's law then.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | Mapping[str, Drafter],
        controller: Controller,
        tokenizer: Tokenizer | None = None,
        rule: str = "token",
        early_exit: bool = True,
        backend: str | None = None,
        predictor: Predictor | None = None,
        allow_lossy: bool = False,
    ):
        require_allowed("SpeculativeDecoder", rule, allow_lossy)
        super().__init__(target, tokenizer, rule, backend)
        drafters = drafter if isinstance(drafter, Mapping) else {"": drafter}
        controller.bind(list(drafters))
        controller.require_predictor(predictor is not None)
        self.predictor = predictor
        self.shows_states = predictor is not None and isinstance(target, StatefulTarget)
        if self.shows_states:
            target.keep_states()
        self.controller, self.early_exit = controller, early_exit
        self.lanes = [
            Lane(index, drafter, target, controller, rule, early_exit, backend, self._clock)
            for index, drafter in enumerate(drafters.values())
        ]
        self.prompt_below = min(self.max_length, *(lane.max_length for lane in self.lanes))
        self.scorer = Scorer(self.lanes, controller) if controller.full_information else None
        # What is ragged has been read on the host; hedges look at every row's logits side by side.
        self.ragged = early_exit and self.scorer is None and isinstance(target, RaggedTarget)

    def reset(self) -> None:
        """Forget what the bandit learned; it persists over calls of ``generate`` otherwise."""
        self.controller.reset()

    def round(self, last: Tensor, live: Tensor, budget: Tensor, room: int) -> Tensor:
        """Draft, verify, learn: up to K+1 new tokens for each live row.

        ``last`` [B] i64 is each row's last token, ``budget`` [B] i32 the longest draft allowed,
        ``room`` the longest draft that the models can read; returns the new last tokens. The
        rest is in ``proposal`` and ``verdict`` of the lanes in ``drafted``.
        """
        with self._clock("kernels"):
            live = self.repeated.kept("live", live)
            self.repeated("select", lambda: self.controller.select(live, self.backend))
        self.drafted = self._draft(last, live, budget, room)
        logits, row_start = self._forward_ragged(last) if self.ragged else self._forward(last, room)
        for lane in self.drafted:
            lane.judge(logits, row_start)
        return self._merged(lambda lane: lane.verdict.last_token)

    def _draft(self, last: Tensor, live: Tensor, budget: Tensor, room: int) -> list[Lane]:
        """Every row in the lane of its arm; returns the lanes that have rows."""
        offers = [lane.offer() for lane in self.lanes]
        prediction, drafted = self._predict(last), []
        for lane, rows in self._rows_of_lanes(live, offers):
            lane.draft(last, rows, budget, room, prediction)
            drafted.append(lane)
        return drafted

    def _rows_of_lanes(
        self, live: Tensor, offers: Sequence[Sequence[bool] | None]
    ) -> Iterator[tuple[Lane, Tensor]]:
        """Lanes that have live rows, and which, [B] bool."""
        if len(self.lanes) == 1:
            yield self.lanes[0], live
            return
        chosen, alive = self.controller.drafters_of_rows(offers), live.tolist()
        for lane in self.lanes:
            mine = [at == lane.index and up for at, up in zip(chosen, alive, strict=True)]
            if mine == alive:
                yield lane, live
            elif any(mine):
                yield lane, self.repeated.tensor(f"live of {lane.index}", mine, torch.bool)

    def _predict(self, last: Tensor) -> Tensor | None:
        if self.predictor is None:
            return None
        with self._clock("draft"):
            return self.predictor(last, self.target.last_states() if self.shows_states else None)

    def _forward(self, last: Tensor, room: int) -> tuple[Tensor, None]:
        """The target's logits [B, K+1, V] after each row's last token and its drafts; columns no
        row drafted are not computed."""
        vocab = self.target.vocab_size
        with self._clock("verify"):
            input_ids = self._merged(lambda lane: lane.proposal.input_ids(last, vocab))
            if self.early_exit:
                room = max(int(lane.proposal.length.max()) for lane in self.drafted)
            logits = self.target.forward(input_ids[:, : 1 + room])
            if logits.shape[1] < input_ids.shape[1]:
                self._logits[:, : 1 + room] = logits
                logits = self._logits
            self.logits = logits  # [B, K+1, V]
            return logits, None

    def _forward_ragged(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Rows pay for their own drafts, one that has ended for nothing: logits, and where rows
        begin."""
        with self._clock("verify"):
            rows = self._inputs(last.tolist())
            counts = [len(row) for row in rows]
            ends = [0, *accumulate(counts)]
            row_start = self.repeated.tensor("row_start", ends, torch.int32)
            width = max(counts)
            ids = [[*row, *[0] * (width - len(row))] for row in rows]
            input_ids = torch.tensor(ids, device=last.device)
            return self.target.forward_ragged(input_ids, counts), row_start

    def _inputs(self, last: list[int]) -> list[list[int]]:
        """Each live row's last token and its drafts; an id that is none is fed as the last one."""
        rows: list[list[int]] = [[] for _ in last]
        for lane in self.drafted:
            mine = zip(lane.live.tolist(), last, lane.drafts(), strict=True)
            for row, (own, token, draft) in enumerate(mine):
                if own:
                    known = (x if 0 <= x < self.target.vocab_size else token for x in draft)
                    rows[row] = [token, *known]
        return rows

    def _merged(self, of: Callable[[Lane], Tensor]) -> Tensor:
        """What each row's lane says of it; of rows in none, what the first says."""
        merged = of(self.drafted[0])
        for lane in self.drafted[1:]:
            rows = lane.live.view(-1, *[1] * (merged.dim() - 1))
            merged = torch.where(rows, of(lane), merged)
        return merged

    def _keys(self, seeds: Sequence[int]) -> list[int]:
        return self.controller.admit(seeds)

    def _prefill(self, prompts: list[list[int]]) -> None:
        self.target.prefill(prompts)
        for lane in self.lanes:
            lane.prefill(prompts, self.sampling, self.rng, self.repeated)
        if self.scorer is not None:
            self.scorer.begin()
        if not self.ragged:
            self._logits = torch.zeros(
                len(prompts), self.controller.slots + 1, self.target.vocab_size,
                dtype=self.target.dtype, device=self.target.device,
            )  # a column past every draft is never read, but must exist  # fmt: skip

    def _advance(self, rows: list[Row]) -> list[RoundReport]:
        live = self.repeated.tensor("live", [row.live for row in rows], torch.bool)
        if self.scorer is not None:
            self.scorer.settle(live)
        rooms = [self._room(row) if row.live else 0 for row in rows]
        # The target adds one token of its own, so a draft stays one short of what is left.
        budget = [
            min(room, max(row.remaining - 1, 0)) for row, room in zip(rows, rooms, strict=True)
        ]
        budget = self.repeated.tensor("budget", budget, torch.int32)
        self.last = self.round(self.last, live, budget, max(rooms))
        reports = self._read()
        emitted = [report.emitted for report in reports]
        with self._clock("verify"):
            self.target.commit(emitted)
        self._follow(emitted, reports)
        return reports

    def _follow(self, emitted: list[list[int]], reports: list[RoundReport]) -> None:
        """The drafters read what was emitted, or are asked about it when the next round begins."""
        if self.scorer is not None:
            tokens = self._merged(lambda lane: lane.verdict.tokens)
            count = self._merged(lambda lane: lane.verdict.num_emitted)
            self.scorer.keep(Verified(emitted, tokens, count, self.logits))
            return
        with self._clock("draft"):
            for lane in self.lanes:
                lane.commit(emitted, [report.lane == lane.index for report in reports])

    def _room(self, row: Row) -> int:
        """The longest draft that target and drafters can read, whatever the request asks for."""
        target = self.max_length - row.length - 1
        drafters = min(lane.max_length for lane in self.lanes) - row.length + 1
        return int(max(0, min(self.controller.slots, target, drafters)))  # the last is not read

    def _read(self) -> list[RoundReport]:
        """All that the host will know of this round."""
        reports = self.drafted[0].reports()
        for lane in self.drafted[1:]:
            own = zip(lane.live.tolist(), lane.reports(), reports, strict=True)
            reports = [theirs if mine else first for mine, theirs, first in own]
        return reports
