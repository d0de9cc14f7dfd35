"""Recording: at every position each drafter says K tokens, then the target says one.

A drafter sees what it sees in live decoding: its drafts are made by the decoder's own lanes,
rolled back, and one token is confirmed. (After a live round several may be confirmed at once; a
drafter reads the same tokens and, a head, the same hidden states then.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

import tapout_kernels as tk

from ..controller import Controller
from ..engine import Drafter, Target, max_length
from ..errors import EngineError
from ..lanes import Lane
from ..requests import Request
from ..rows import STOP_REASONS, check_requests, sampling_params

BAD_LOGITS = STOP_REASONS.index("bad_logits")


@dataclass
class Recorded:
    """What a trace holds of one request, but for its domain."""

    key: int
    prompt_length: int
    tokens: np.ndarray  # [n] i32
    budget: np.ndarray  # [n] i32
    drafts: np.ndarray  # [n, D, K] i32
    offered: np.ndarray  # [n, D] i32
    stats: np.ndarray  # [n, D, K, 8] f32
    accepted: np.ndarray  # [n, D] i32

    def arrays(self) -> dict[str, np.ndarray]:
        """As a file holds them: numbers are arrays of one."""
        one = {
            "key": np.array([self.key], np.int64),
            "prompt_length": np.array([self.prompt_length], np.int32),
        }
        rest = [entry.name for entry in fields(self) if entry.name not in one]
        return one | {name: np.ascontiguousarray(getattr(self, name)) for name in rest}


@dataclass
class _Row:
    """A request while it is recorded: it goes on past its end for what later drafts need."""

    request: Request
    ordinal: int
    slots: int
    longest: float  # tokens that the target reads
    tokens: list[int] = field(default_factory=list)
    end: int | None = None
    budget: list[int] = field(default_factory=list)
    drafts: list[Tensor] = field(default_factory=list)
    stats: list[Tensor] = field(default_factory=list)

    @property
    def key(self) -> int:
        return tk.mix64(self.request.seed, self.ordinal)

    @property
    def said(self) -> list[int]:
        return [*self.request.prompt, *self.tokens]

    @property
    def length(self) -> int:
        return len(self.request.prompt) + len(self.tokens)

    @property
    def remaining(self) -> int:
        wanted = self.request.max_new_tokens - len(self.tokens)
        return int(min(wanted, self.longest - self.length))

    @property
    def live(self) -> bool:
        if self.end is None:
            return True
        return len(self.tokens) < self.end + self.slots - 1 and self.length < self.longest

    def take(self, token: int) -> None:
        self.tokens.append(token)
        if self.end is None and (token in self.request.eos or self.remaining == 0):
            self.end = len(self.tokens)

    def recorded(self) -> Recorded:
        drafts, stats = torch.stack(self.drafts).numpy(), torch.stack(self.stats).numpy()
        said = np.full((self.end, self.slots), -2)
        for slot in range(self.slots):
            known = self.tokens[slot : slot + self.end]
            said[: len(known), slot] = known
        matches = np.cumprod(drafts == said[:, None], axis=-1).sum(-1)
        return Recorded(
            key=self.key, prompt_length=len(self.request.prompt),
            tokens=np.array(self.tokens[: self.end], np.int32),
            budget=np.array(self.budget, np.int32), drafts=drafts.astype(np.int32),
            offered=(drafts >= 0).sum(-1).astype(np.int32), stats=stats.astype(np.float32),
            accepted=matches.astype(np.int32),
        )  # fmt: skip


class Recorder:
    """A target and its drafters, ready to record requests.

    Parameters
    ----------
    target : Target
    drafters : mapping of str to Drafter
    slots : int
        K.
    rule : {"greedy", "gumbel"}
        Those whose output does not depend on who drafts.
    backend : str, optional
    """

    def __init__(
        self,
        target: Target,
        drafters: Mapping[str, Drafter],
        slots: int = 8,
        rule: str = "greedy",
        backend: str | None = None,
    ):
        if rule not in ("greedy", "gumbel"):
            raise EngineError(f"trace record: rule must be greedy or gumbel, got {rule}")
        self.target, self.rule, self.slots, self.backend = target, rule, slots, backend
        self.names = list(drafters)
        longest = (("fixed_length", {"n": slots}),)
        self.controller = Controller(longest, slots, policy="fixed", device=target.device)
        self.lanes = [
            Lane(i, drafter, target, self.controller, rule, False, backend, _unclocked)
            for i, drafter in enumerate(drafters.values())
        ]
        self.max_length = max_length(target)

    def record(
        self, requests: Sequence[Request], ordinals: Sequence[int], batch: int | None = None
    ) -> Iterator[tuple[int, Recorded]]:
        """Record requests, ``batch`` of them together; what has ended makes room for the next.

        Parameters
        ----------
        requests : sequence of Request
        ordinals : sequence of int
            Their numbers among all requests: equal seeds do not share noise.
        batch : int, optional
            None: all of them.

        Yields
        ------
        tuple of int and Recorded
            An ordinal and its request, once it is complete.
        """
        below = min(self.max_length, *(lane.max_length for lane in self.lanes))
        check_requests(requests, self.target.vocab_size, None, below)
        waiting = [
            _Row(request, ordinal, self.slots, self.max_length)
            for request, ordinal in zip(requests, ordinals, strict=True)
        ]
        size, self.rows = batch or len(waiting), []
        while waiting or any(row.live for row in self.rows):
            if self._admission_pays():
                live = [row for row in self.rows if row.live]
                self._admit(live + waiting[: size - len(live)])
                waiting = waiting[size - len(live) :]
            live = [row for row in self.rows if row.live]
            self._position()
            yield from ((row.ordinal, row.recorded()) for row in live if not row.live)

    def _admission_pays(self) -> bool:
        """Models begin anew with the rows that go on, and read those once more: a token so read
        costs a fraction of a position, and the rows that have ended cost one at every step."""
        live = [row for row in self.rows if row.live]
        left = max((row.request.max_new_tokens - len(row.tokens) for row in live), default=0)
        ended = len(self.rows) - len(live)
        return not live or ended * left > sum(row.length for row in live)

    @torch.no_grad()
    def _admit(self, rows: list[_Row]) -> None:
        self.rows = rows
        texts = [row.said for row in rows]
        device = self.target.device
        self.rng = tk.RngState.of(
            [row.key for row in rows], [len(text) for text in texts], device=device
        )
        self.sampling = sampling_params([row.request for row in rows], device)
        self.last = torch.tensor([text[-1] for text in texts], device=device)
        self.controller.admit([0] * len(rows))
        self.target.prefill(texts)
        for lane in self.lanes:
            lane.prefill(texts, self.sampling, self.rng)

    @torch.no_grad()
    def _position(self) -> None:
        """Drafts and one token for every row."""
        rooms = [self._room(row) if row.end is None else 0 for row in self.rows]
        if any(row.end is None for row in self.rows):
            self._draft(rooms)
        live = torch.tensor([row.live for row in self.rows], device=self.target.device)
        logits = self.target.forward(self.last[:, None])[:, 0]  # [B, V]
        said = tk.sample(
            logits, self.sampling, self.rng, rule=self.rule, live=live, backend=self.backend
        )
        emitted = [
            [token] if row.live else [] for row, token in zip(self.rows, said.tolist(), strict=True)
        ]
        if min((token for tokens in emitted for token in tokens), default=0) < 0:
            raise EngineError("trace record: the target's logits hold NaN or +inf, or all -inf")
        self.target.commit(emitted)
        for lane in self.lanes:
            lane.commit(emitted, [True] * len(emitted))
        self.last = torch.where(live, said, self.last)
        for row, tokens in zip(self.rows, emitted, strict=True):
            for token in tokens:
                row.take(token)

    def _draft(self, rooms: list[int]) -> None:
        device = self.target.device
        live = torch.tensor([row.end is None for row in self.rows], device=device)
        budget = torch.tensor(rooms, dtype=torch.int32, device=device)
        for lane in self.lanes:
            lane.offer()
            lane.draft(self.last, live, budget, max(rooms))
            if (lane.proposal.stop_reason == BAD_LOGITS).any():
                name = self.names[lane.index]
                raise EngineError(f"trace record: logits of {name} hold NaN or +inf, or all -inf")
        drafts = torch.stack([lane.proposal.tokens for lane in self.lanes], 1).cpu()  # [B, D, K]
        stats = torch.stack([lane.proposal.stats for lane in self.lanes], 1).cpu()
        for i, (row, room) in enumerate(zip(self.rows, rooms, strict=True)):
            if row.end is None:
                row.budget.append(min(room, max(row.remaining - 1, 0)))
                row.drafts.append(drafts[i].clone())
                row.stats.append(stats[i].clone())

    def _room(self, row: _Row) -> int:
        """The longest draft that target and drafters can read, as for the decoder."""
        target = self.max_length - row.length - 1
        drafters = min(lane.max_length for lane in self.lanes) - row.length + 1
        return int(max(0, min(self.slots, target, drafters)))


@contextmanager
def _unclocked(part: str) -> Iterator[None]:
    yield
