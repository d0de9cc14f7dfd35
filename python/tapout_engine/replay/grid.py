"""Policies x rewards x orders x cost ratios x batches, in parallel processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from tapout_kernels.replay import RoundCosts, Rounds

from ..arms import Arm
from ..traces import Trace, load_trace
from .costs import costs_of_file, measured_costs
from .measure import Measured, curves, follow, measured
from .play import Play, Player, join
from .streams import streams

FULL = 8  # so many requests for each row of a batch: fewer are asked again


@dataclass(frozen=True)
class Task:
    """One stream in one order under one set of costs; ``ratio`` None: the measured costs."""

    stream: str
    seed: int
    ratio: float | None = None
    batch: int = 1


@dataclass(frozen=True)
class Grid:
    """Everything a process must know.

    Parameters
    ----------
    traces : sequence of Path
    arms : sequence of Arm
    policies : sequence of Play
        Their arms are these.
    token_cost, cost_file, padded
        See :func:`measured_costs` and :func:`costs_of_file`.
    """

    traces: tuple[Path, ...]
    arms: tuple[Arm, ...]
    policies: tuple[Play, ...]
    token_cost: float | None = None
    cost_file: Path | None = None
    padded: bool = False


def tasks(
    names: Sequence[str], seeds: int, ratios: Sequence[float], batches: Sequence[int]
) -> list[Task]:
    """Measured costs at every batch, every ratio at the first one; the costliest ones first."""
    found = [Task(*entry) for entry in product(names, range(seeds), (None,), batches)]
    found += [Task(*entry) for entry in product(names, range(seeds), ratios, batches[:1])]
    return sorted(found, key=lambda task: names.index(task.stream), reverse=True)


def run(grid: Grid, work: Sequence[Task], jobs: int) -> Iterator[list[dict]]:
    """The rows of each task, as they come; one job runs here."""
    if jobs == 1:
        player = open_player(grid.traces)
        for task in work:
            yield rows_of(player, grid, task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _open, (grid,)) as pool:
        for future in as_completed([pool.submit(_rows, task) for task in work]):
            yield future.result()


_process: list = []  # the player and the grid of a process of the pool


def _open(grid: Grid) -> None:
    _process[:] = [open_player(grid.traces), grid]


def _rows(task: Task) -> list[dict]:
    return rows_of(*_process, task)


def open_player(paths: Sequence[Path]) -> Player:
    """A player of traces joined."""
    return Player(join([load_trace(path) for path in paths]))


def rows_of(player: Player, grid: Grid, task: Task) -> list[dict]:
    """Every way to decode one task: none, static lengths, each arm, each policy, the oracle."""
    return _Task(player, grid, task).rows()


class _Task:
    def __init__(self, player: Player, grid: Grid, task: Task):
        self.player, self.grid, self.task = player, grid, task
        trace = player.trace
        requests = streams(trace.meta.domains, trace.domain, task.seed)[task.stream]
        if task.batch > 1:
            requests = np.resize(requests, max(len(requests), FULL * task.batch))
        self.requests = requests
        self.costs = self._costs(trace)
        self.plain = measured(self._play(_static(player.meta.drafters[0], 0)), None)

    def _costs(self, trace: Trace) -> RoundCosts:
        task, grid = self.task, self.grid
        if grid.cost_file is not None:
            return costs_of_file(grid.cost_file, trace.meta, task.batch, task.ratio, grid.padded)
        return measured_costs(trace.meta, task.batch, task.ratio, grid.token_cost, grid.padded)

    def _play(self, play: Play) -> Rounds:
        return self.player.play(
            play, self.requests, self.costs, self.task.batch, seed=self.task.seed
        )

    def rows(self) -> list[dict]:
        meta = self.player.meta
        statics = [
            self._row("static", _static(name, n))
            for name, n in product(meta.drafters, range(1, meta.slots + 1))
        ]
        arms = [
            self._row("arm", Play(f"arm {i}", self.grid.arms, settings={"arm": i}))
            for i in range(len(self.grid.arms))
        ]
        best = max(arms, key=lambda row: row["speed"])
        against = measured(self._play(best["play"]), self.plain)
        policies = [self._row("policy", play, against) for play in self.grid.policies]
        rows = [self._entry("plain", self.plain, "no drafts"), *statics, *arms, *policies]
        if self.task.batch == 1:
            rows.append(self._entry("oracle", self._oracle(), "oracle"))
        for row in rows:
            row.pop("play", None)
        return rows

    def _row(self, way: str, play: Play, against: Measured | None = None) -> dict:
        rounds = self._play(play)
        found = measured(rounds, self.plain)
        row = self._entry(way, found, play.label)
        row |= {"policy": play.policy, "reward": play.reward, "level": play.level, "play": play}
        arms = len(play.arms)
        row["pulls"] = np.bincount(rounds.arm, minlength=arms).tolist()
        if against is not None and self.task.seed == 0 and self.task.ratio is None:
            row["curves"] = curves(rounds, found, against, arms)
        return row

    def _entry(self, way: str, found: Measured, label: str) -> dict:
        return {
            "stream": self.task.stream, "seed": self.task.seed, "cost_ratio": self.task.ratio,
            "batch": self.task.batch, "way": way, "label": label, **found.row(),
        }  # fmt: skip

    def _oracle(self) -> Measured:
        plan = self.player.oracle(self.costs)
        return replace(follow(self.player.table, plan, self.requests, self.costs), plain=self.plain)


def _static(drafter: str, n: int) -> Play:
    return Play(f"{drafter}, {n}", (("fixed_length", {"n": n}, (drafter,)),))
