"""What drafting, verifying and catching up cost on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch

import tapout_kernels as tk

from ..errors import EngineError
from ..lanes import Lane
from ..requests import Request
from ..rows import sampling_params
from .recorder import Recorder

REPEATS = 9
BEHIND = 8  # tokens that a drafter has missed when catching up is timed


def measure(
    recorder: Recorder, tokens: Sequence[int], batch: int = 1, repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Seconds of each part of a round, kernels included: medians of ``repeats``.

    Parameters
    ----------
    recorder : Recorder
        What it was recording is forgotten.
    tokens : sequence of int
        The context at which to measure: more than ``BEHIND`` tokens.
    batch : int
        Requests together, all with this context.
    repeats : int

    Returns
    -------
    dict
        The ``*_seconds`` of :class:`TraceMeta`; ``catch_up_seconds`` of one request only.
    """
    return _Bench(recorder, list(tokens), batch).all(repeats)


class _Bench:
    def __init__(self, recorder: Recorder, tokens: list[int], batch: int):
        self.batch = batch
        self.recorder, self.target, self.slots = recorder, recorder.target, recorder.slots
        longest = min(recorder.max_length, *(lane.max_length for lane in recorder.lanes))
        self.tokens = tokens[: int(min(len(tokens), longest - self.slots - 1))]
        if len(self.tokens) <= BEHIND:
            raise EngineError(
                f"trace record: costs are measured after more than {BEHIND} tokens, and the "
                f"models read {longest}: got {len(tokens)}"
            )
        device = self.target.device
        self.live = torch.ones(batch, dtype=torch.bool, device=device)
        self.last = torch.tensor(self.tokens[-1:] * batch, device=device)
        self.sampling = sampling_params([Request(self.tokens)] * batch, device)
        self.logits = torch.zeros(
            batch, self.slots + 1, self.target.vocab_size, dtype=self.target.dtype, device=device
        )

    def all(self, repeats: int) -> dict[str, list[float]]:
        """Every part in turn, again and again: all of them see the same machine."""
        with torch.no_grad():
            self._begin()
            passes = [self._once() for _ in range(repeats + 1)][1:]  # the first is for caches
        return {
            name: [
                median(values) for values in zip(*(found[name] for found in passes), strict=True)
            ]
            for name in passes[0]
        }

    def _once(self) -> dict[str, list[float]]:
        lanes = self.recorder.lanes
        found = {
            "verify_seconds": [self._verify(drafts) for drafts in range(self.slots + 1)],
            "draft_seconds": [self._step(lane) for lane in lanes],
        }
        if self.batch == 1:
            found["catch_up_seconds"] = [self._catch_up(lane) for lane in lanes]
        return found

    def _begin(self) -> None:
        device, prompts = self.target.device, [self.tokens] * self.batch
        self.rng = tk.RngState.of(
            list(range(self.batch)), [len(self.tokens)] * self.batch, device=device
        )
        self.recorder.controller.admit([0] * self.batch)
        self.target.prefill(prompts)
        for lane in self.recorder.lanes:
            lane.prefill(prompts, self.sampling, self.rng)

    def _draft(self, lane: Lane, slots: int) -> None:
        lane.offer()
        budget = torch.full((self.batch,), slots, dtype=torch.int32, device=self.target.device)
        lane.draft(self.last, self.live, budget, slots)

    def _verify(self, drafts: int) -> float:
        lane = self.recorder.lanes[0]
        self._draft(lane, drafts)
        ids = lane.proposal.input_ids(self.last, self.target.vocab_size)[:, : drafts + 1]

        def verify() -> None:
            self.logits[:, : drafts + 1] = self.target.forward(ids)
            lane.verify(self.logits)

        seconds = _seconds(verify)
        self.target.commit([[]] * self.batch)
        self._forget(lane)
        return seconds

    def _drafted(self, lane: Lane, slots: int) -> float:
        seconds = _seconds(lambda: self._draft(lane, slots))
        self._forget(lane)
        return seconds

    def _forget(self, lane: Lane) -> None:
        lane.commit([[]] * self.batch, [True] * self.batch)

    def _step(self, lane: Lane) -> float:
        """Of a step after the first; a block drafter's offer is spread over its slots."""
        first, whole = self._drafted(lane, 1), self._drafted(lane, self.slots)
        if lane.blocks or self.slots == 1:
            return whole / self.slots
        return max(0.0, whole - first) / (self.slots - 1)

    def _catch_up(self, lane: Lane) -> float:
        """A first step with ``BEHIND`` tokens missed over one with none, a token."""
        if lane.blocks:
            return 0.0
        seconds = []
        for missed in (BEHIND, 0):  # at last it is as it was
            kept = len(self.tokens) - missed
            lane.prefill([self.tokens[:kept]], self.sampling, self.rng)
            lane.commit([self.tokens[kept:]], [True])
            seconds.append(self._drafted(lane, 1))
        return max(0.0, seconds[0] - seconds[1]) / BEHIND


def _seconds(run: Callable[[], None]) -> float:
    begin = perf_counter()
    run()
    return perf_counter() - begin
