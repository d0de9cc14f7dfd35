"""What every drafter of a hedge thought of the tokens of a round, drafted by whichever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import tapout_kernels as tk

from .controller import Controller
from .engine import ScoredDrafter, max_length
from .errors import EngineError
from .lanes import Lane
from .rules import draft_rule


class Verified(NamedTuple):
    """A verified round, as the drafters are asked about it."""

    emitted: Sequence[Sequence[int]]
    tokens: Tensor  # [B, K+1] i64, and
    count: Tensor  # [B] i32 of them are there
    logits: Tensor  # [B, K+1, V], the target's where they stand


class Judge:
    """The chances of one lane's drafter.

    Parameters
    ----------
    lane : Lane
    """

    def __init__(self, lane: Lane):
        self.lane = lane
        self.certain = lane.rule in ("gumbel", "greedy")  # accepted or not, without a coin

    def allocate(self) -> None:
        """Buffers as wide as a round: K drafts and the target's own token."""
        like, lane = self.lane.proposal, self.lane
        width = None if like.logits is None or self.certain else like.logits.shape[-1]
        dtype = None if width is None else like.logits.dtype
        shape, device = (like.batch, like.slots + 1), lane.target.device
        self.proposal = tk.Proposal.empty(*shape, width, dtype, device)
        self.verdict = tk.Verdict.empty(*shape, overlap=True, device=device)

    def chances(self, done: Verified, live: Tensor) -> Tensor:
        """[B, K+1] f64: how likely each token was to be accepted; any number beyond ``count``."""
        lane = self.lane
        # What the next round will draw must not decide who draws it; gumbel's noise is the past's.
        seed = lane.rng.seed if self.certain else ~lane.rng.seed
        rng = tk.RngState(seed, lane.rng.round.clone(), lane.rng.position - done.count)
        with lane.clock("draft"):
            said = lane.drafter.score(done.emitted)
        with lane.clock("kernels"):
            offered = self._draft(said, done.count, live, rng)
            if self.certain:
                return (offered & (self.proposal.tokens == done.tokens)).double()
            logits = torch.cat((done.logits, done.logits[:, :1]), dim=1)  # of no token
            tk.verify(
                logits, self.proposal, lane.sampling, rng, rule="token", vocab=lane.vocab,
                overlap=True, out=self.verdict, backend=lane.backend,
            )  # fmt: skip
        return torch.where(offered, self.verdict.overlap, 0.0).double()

    def _draft(self, said: Tensor, count: Tensor, live: Tensor, rng: tk.RngState) -> Tensor:
        """Into the proposal; [B, K+1] bool: where the drafter had anything to say."""
        lane, proposal = self.lane, self.proposal
        if lane.blocks:
            said = torch.nn.functional.pad(said, (0, proposal.slots - said.shape[1]), value=-1)
            offered = (said >= 0) & (said < lane.target.vocab_size)
            tk.Proposal.from_tokens(
                torch.where(offered, said, 0), rng, length=count, live=live, out=proposal,
                backend=lane.backend,
            )  # fmt: skip
            return offered
        proposal.reset(rng, max_length=count, live=live, backend=lane.backend)
        for logits in said.unbind(1):
            tk.draft_step(
                logits, proposal, lane.sampling, rng, rule=draft_rule(lane.rule), vocab=lane.vocab,
                backend=lane.backend,
            )  # fmt: skip
        return proposal.tokens >= 0


class Scorer:
    """Has the drafters of a hedge follow the text together, one round late.

    A round is asked about when the next one begins: by then it is known which requests have ended,
    and of them nothing more is asked.

    Parameters
    ----------
    lanes : sequence of Lane
    controller : Controller

    Raises
    ------
    EngineError
        For a drafter that cannot be scored, or that reads less than the target.
    """

    def __init__(self, lanes: Sequence[Lane], controller: Controller):
        self.controller = controller
        self.judges = [Judge(lanes[index]) for index, *_ in controller.order]
        judged = {judge.lane.index for judge in self.judges}
        self.others = [lane for lane in lanes if lane.index not in judged]
        for judge in self.judges:
            _require_scored(judge.lane)

    def begin(self) -> None:
        """A new batch, for which the lanes have been allocated."""
        self.done: Verified | None = None
        for judge in self.judges:
            judge.allocate()

    def keep(self, done: Verified) -> None:
        """A round has been verified; the drafters are told of it when the next one begins."""
        self.done = done

    def settle(self, live: Tensor) -> None:
        """The drafters follow, and the bandit learns, for the rows that are ``live`` still."""
        if self.done is None:
            return
        chances = [judge.chances(self.done, live) for judge in self.judges]
        with self.judges[0].lane.clock("draft"):
            for lane in self.others:
                lane.drafter.commit(self.done.emitted)
        with self.judges[0].lane.clock("kernels"):
            self.controller.observe(torch.stack(chances, dim=1), self.done.count, live)
        self.done = None


def _require_scored(lane: Lane) -> None:
    kind = type(lane.drafter).__name__
    if not isinstance(lane.drafter, ScoredDrafter):
        raise EngineError(
            "arms: a hedge over drafters asks each of them about every token: expected drafters "
            f"with a method score, got a {kind}"
        )
    if lane.max_length < max_length(lane.target):
        raise EngineError(
            "arms: a hedge over drafters asks each of them about every token: expected drafters "
            f"that read the target's {max_length(lane.target)} tokens, got a {kind} that reads "
            f"{lane.max_length}"
        )
