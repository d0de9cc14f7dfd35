"""One drafter of a decoder with everything that is its own: draft, verdict, vocabulary, cost."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

import tapout_kernels as tk

from .controller import Controller
from .engine import (
    BlockDrafter,
    Drafter,
    Target,
    check_vocabulary,
    has_static_outputs,
    max_length,
)
from .repeated import Repeated
from .rows import RoundReport
from .rules import draft_rule, is_lossy
from .slot_cost import slot_cost

Clock = Callable[[str], AbstractContextManager[None]]


class Lane:
    """Drafts for the rows whose arm chose its drafter; the others sit the round out.

    Parameters
    ----------
    index : int
        Its number among the lanes.
    drafter : Drafter
    target : Target
    controller : Controller
    rule, early_exit, backend
        As for :class:`tapout_engine.SpeculativeDecoder`, which allows lossy rules or not. What
        ``lossy_adasd`` remembers of a request is of its drafts in this lane.
    clock : callable
        ``with clock("draft"):`` adds to the time of a part.
    """

    def __init__(
        self,
        index: int,
        drafter: Drafter,
        target: Target,
        controller: Controller,
        rule: str,
        early_exit: bool,
        backend: str | None,
        clock: Clock,
    ):
        check_vocabulary(drafter, target)
        self.index = index
        self.drafter, self.target, self.controller = drafter, target, controller
        self.rule, self.early_exit, self.backend, self.clock = rule, early_exit, backend, clock
        self.blocks = isinstance(drafter, BlockDrafter)
        self.vocab: tk.DraftVocab | None = getattr(drafter, "draft_vocab", None)
        self.max_length = max_length(drafter)

    def prefill(
        self, prompts: list[list[int]], sampling: tk.SamplingParams, rng: tk.RngState,
        repeated: Repeated | None = None,
    ) -> None:  # fmt: skip
        """Begin a batch; ``repeated`` is that of its decoder."""
        self.drafter.prefill(prompts)
        self.allocate(len(prompts), sampling, rng, repeated)

    def allocate(
        self, batch: int, sampling: tk.SamplingParams, rng: tk.RngState,
        repeated: Repeated | None = None,
    ) -> None:  # fmt: skip
        """Buffers for rounds of ``batch`` rows with these parameters and this randomness."""
        self.sampling, self.rng = sampling, rng
        slots, device = self.controller.slots, self.target.device
        self.overlap = self.controller.bandit.reward == "overlap"
        drawn = draft_rule(self.rule) in ("token", "block")
        keeps_logits = (drawn or self.overlap) and not self.blocks
        width = len(self.vocab) if self.vocab else self.target.vocab_size
        self.proposal = tk.Proposal.empty(
            batch, slots, width if keeps_logits else None,
            self.drafter.dtype if keeps_logits else None, device,
        )  # fmt: skip
        self.verdict = tk.Verdict.empty(batch, slots, self.overlap, device=device)
        self.memory: Tensor | None = None
        if self.rule == "lossy_adasd":
            self.memory = torch.zeros(batch, 4, dtype=torch.float64, device=device)
        self.repeated = repeated or Repeated(device, self.backend)
        self.token = torch.zeros_like(self.proposal.round)
        self.own_index = torch.full_like(self.proposal.length, self.index)
        # The same memory, without an operator to read it.
        on_host = (*self._columns(), self.verdict.tokens) if device.type == "cpu" else ()
        self.arrays = [column.numpy() for column in on_host]
        cost = [slot_cost(self.drafter, batch, slots, self.target)]
        self.learner = self.controller.learner(
            torch.tensor(cost, dtype=torch.float32, device=device)
        )

    def offer(self) -> list[bool] | None:
        """Whether there is something to propose for each row; None: for all of them."""
        if not self.blocks:
            return None
        with self.clock("draft"):
            self.offered = self.drafter.propose(self.controller.slots)  # [B, K]
            return [token >= 0 for token in self.offered[:, 0].tolist()]

    def draft(
        self, last: Tensor, live: Tensor, budget: Tensor, room: int,
        prediction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Fill the proposal for the rows of ``live``; see :meth:`SpeculativeDecoder.round`."""
        live, budget = self._kept("live", live), self._kept("budget", budget)
        prediction, self.live = self._kept("prediction", prediction), live
        where = live.data_ptr(), budget.data_ptr()
        if self.blocks:
            offered = self._kept("offered", self.offered)
            self._again(("take", *where), lambda: self._take(offered, live, budget, prediction))
        else:
            self._again(("begin", *where), lambda: self.begin(live, budget, prediction))
            self._step(last, room)

    def _kept(self, name: str, value: Tensor | None) -> Tensor | None:
        return self.repeated.kept(f"{name} of {self.index}", value)

    def _step(self, last: Tensor, room: int) -> None:
        token, static = last, has_static_outputs(self.drafter)
        for _ in range(room):
            if self.early_exit and not self.proposal.num_active.item():
                break
            with self.clock("draft"):
                logits = self.drafter.step(token)  # [B, V or D]
            self._again(("add", logits.data_ptr()) if static else None, partial(self.add, logits))
            token = self.token

    def _again(self, key: tuple[Hashable, ...] | None, kernels: Callable[[], object]) -> None:
        with self.clock("kernels"):
            self.repeated(key and (self.index, *key), kernels)

    def begin(self, live: Tensor, budget: Tensor, prediction: Tensor | None = None) -> None:
        """An empty draft for the rows of ``live``, of up to ``budget`` tokens; ``prediction`` [B]
        f32 is for arms of ``predicted_length``."""
        self.proposal.reset(
            self.rng, self.controller.rules, self.controller.state, budget, live, prediction,
            backend=self.backend,
        )  # fmt: skip

    def add(self, logits: Tensor) -> Tensor:
        """One token more for every row that still drafts; returns each row's last one, until the
        next."""
        return tk.draft_step(
            logits, self.proposal, self.sampling, self.rng, rules=self.controller.rules,
            state=self.controller.state, rule=draft_rule(self.rule), vocab=self.vocab,
            out=self.token, backend=self.backend,
        )  # fmt: skip

    def _take(
        self, offered: Tensor, live: Tensor, budget: Tensor, prediction: Tensor | None
    ) -> None:
        tk.Proposal.from_tokens(
            offered, self.rng, live=live, max_length=budget, prediction=prediction,
            rules=self.controller.rules, state=self.controller.state, out=self.proposal,
            backend=self.backend,
        )  # fmt: skip

    def verify(self, logits: Tensor, row_start: Tensor | None = None) -> None:
        """Judge this lane's drafts, and let the bandit learn from it."""
        tk.verify(
            logits, self.proposal, self.sampling, self.rng, rule=self.rule,
            row_start=row_start, vocab=self.vocab, overlap=self.overlap,
            allow_lossy=is_lossy(self.rule), lossy_memory=self.memory, out=self.verdict,
            backend=self.backend,
        )  # fmt: skip
        self.controller.update(self.learner, self.proposal, self.verdict, self.backend)

    def judge(self, logits: Tensor, row_start: Tensor | None = None) -> None:
        """The same, timed; ragged logits are as the target gave them."""
        ragged = row_start is not None and has_static_outputs(self.target)
        if ragged:
            row_start = self._kept("row_start", row_start)
        key = ("verify", logits.data_ptr(), len(logits)) if ragged else None
        self._again(key, lambda: self.verify(logits, row_start))

    def commit(self, emitted: Sequence[Sequence[int]], mine: Sequence[bool]) -> None:
        """Tell the drafter what was emitted; of rows of other lanes it was fed nothing true."""
        if not all(mine):
            self.drafter.commit(
                [row if own else [] for row, own in zip(emitted, mine, strict=True)]
            )
            emitted = [[] if own else row for row, own in zip(emitted, mine, strict=True)]
        self.drafter.commit(emitted)

    def numbers(self) -> Tensor:
        """What the host reads, [B, 7 + K + 1] int64: a `RoundReport` without its tokens, they."""
        return torch.cat([torch.stack(self._columns(), dim=1), self.verdict.tokens], dim=1)

    def reports(self) -> list[RoundReport]:
        """One for each row; from a GPU in one transfer."""
        if self.arrays:
            *columns, tokens = (array.tolist() for array in self.arrays)
            rows = zip(zip(*columns, strict=True), tokens, strict=True)
            return [RoundReport(emitted[: own[0]], *own[1:]) for own, emitted in rows]
        n = len(RoundReport._fields)
        return [RoundReport(row[n : n + row[0]], *row[1:n]) for row in self.numbers().tolist()]

    def drafts(self) -> list[list[int]]:
        """The tokens of each row's draft, on the host."""
        rows = zip(self.proposal.tokens.tolist(), self.proposal.length.tolist(), strict=True)
        return [tokens[:count] for tokens, count in rows]

    def _columns(self) -> tuple[Tensor, ...]:
        proposal, verdict = self.proposal, self.verdict
        return (
            verdict.num_emitted, verdict.num_accepted, proposal.length, verdict.status,
            proposal.stop_reason, self.controller.state.arm, self.own_index,
        )  # fmt: skip
