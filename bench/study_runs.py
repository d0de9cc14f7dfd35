"""The comparisons of the study, and its rows: means over the orders of the requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from tapout_engine.arms import DRAFTER_ARMS, HEAD_ARMS, TAPOUT_ARMS, Arm
from tapout_engine.progress import progress_bar
from tapout_engine.replay.command import plays
from tapout_engine.replay.costs import costs_of_file, measured_costs
from tapout_engine.replay.grid import Grid, Task, open_player, run, tasks
from tapout_engine.replay.play import Play, Player, join
from tapout_engine.replay.streams import streams
from tapout_engine.traces import Trace, TraceMeta

BOTH_ARMS = tuple(
    (*arm[:2], tuple(name.replace("draft", "head") for name in arm[2])) for arm in DRAFTER_ARMS
)
EITHER_ARMS = tuple(("fixed_length", {"n": 3}, (name,)) for name in ("head", "prompt-lookup"))
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DISCOUNTED = ("ucb1", "thompson_gaussian", "epsilon_greedy")
DISCOUNT = 0.998  # half of what it knows is of the last 350 rounds
KEYS = ("section", "stream", "cost_ratio", "batch", "way", "label", "policy", "reward")
CURVED, POINT = ("ucb1, blend", "ucb1, throughput"), 4
SWEEPS, LENGTHS = ("cost", "load"), ("head and lookup",)  # these show static lengths


@dataclass(frozen=True)
class Section:
    """One set of arms on one set of traces.

    ``every``: on the traces of every drafter, of which there are fewer positions. ``names``: of
    policies with the reward; None: all.
    """

    name: str
    arms: tuple[Arm, ...] | None = None
    names: tuple[str, ...] | None = None
    ratios: tuple[float, ...] = ()
    batches: tuple[int, ...] = (1,)
    every: bool = False

    def plays(self, arms: tuple[Arm, ...], player: Player) -> tuple[Play, ...]:
        found = plays(arms, None, None, player)
        found += tuple(
            replace(play, label=f"{play.label}, discounted", settings={"discount": DISCOUNT})
            for play in found
            if play.policy in DISCOUNTED and play.level == "sequence"
        )
        return tuple(play for play in found if self.names is None or play.label in self.names)


SWEPT = tuple(
    f"{policy}, {reward}{more}"
    for policy, reward in (
        ("ucb1", "blend"), ("ucb1", "throughput"), ("thompson_gaussian", "throughput"),
        ("epsilon_greedy", "throughput"),
    )
    for more in ("", ", discounted")
)  # fmt: skip
SECTIONS = (
    Section("TapOut's own arms", TAPOUT_ARMS),
    Section("arms for the head", HEAD_ARMS),
    Section("head and lookup", BOTH_ARMS),
    Section("one or the other", EITHER_ARMS),
    Section("every drafter", every=True),
    Section("cost", BOTH_ARMS, SWEPT, ratios=RATIOS),
    Section("load", BOTH_ARMS, SWEPT, batches=BATCHES),
)  # fmt: skip


def study(
    sections: Iterable[Section], traces: Callable[[bool], Sequence[Path]], seeds: int,
    costs: Callable[[bool], Path | None], jobs: int,
) -> Iterator[dict]:  # fmt: skip
    """The rows of every section; ``traces`` and ``costs`` are asked for those of every drafter."""
    for section in sections:
        paths = tuple(traces(section.every))
        player = open_player(paths)
        arms = section.arms or player.default_arms()
        grid = Grid(paths, arms, section.plays(arms, player), cost_file=costs(section.every))
        names = list(streams(player.meta.domains, player.trace.domain, 0))
        labels = [arm.label for arm in player.check(Play("", arms)).report()]
        work = tasks(names, seeds, section.ratios, section.batches)
        rows = _run(section.name, grid, work, jobs)
        rows.sort(key=lambda row: (names.index(row["stream"]), row["batch"], row["seed"]))
        for row in rows:
            if row["way"] == "arm":
                row["label"] = labels[int(row["label"].removeprefix("arm "))]
        yield from needed(list(means(row | {"section": section.name} for row in rows)))


def _run(name: str, grid: Grid, work: Sequence[Task], jobs: int) -> list[dict]:
    found: list[dict] = []
    with progress_bar(len(work), "task", name) as bar:
        for rows in run(grid, work, min(jobs, len(work))):
            found += rows
            bar.update()
    return found


def means(rows: Iterable[dict]) -> Iterator[dict]:
    """One row for all orders: the means, the least and the greatest; curves of the first order."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in KEYS), []).append(row)
    for key, group in groups.items():
        found = dict(zip(KEYS, key, strict=True))
        speeds = [row["speed"] for row in group]
        found |= {"speed": fmean(speeds), "least": min(speeds), "most": max(speeds)}
        if found["section"] == "load":
            halves = [row["second_half"] for row in group]
            found |= {"second_half": fmean(halves), "worst_half": min(halves)}
        if found["way"] == "arm":
            found["cost"] = fmean(row["cost"] for row in group)
        if found["way"] == "policy":
            found["undrafted"] = fmean(row["undrafted"] for row in group)
        curves = [row["curves"] for row in group if "curves" in row and row["label"] in CURVED]
        if curves and found["section"] not in SWEEPS:
            found["regret"] = [round(value, 1) for value in curves[0]["regret"][::POINT]]
        found = {name: round(value, 4) if isinstance(value, float) else value
                 for name, value in found.items()}  # fmt: skip
        yield {name: value for name, value in found.items() if value is not None}


def needed(rows: Sequence[dict]) -> Iterator[dict]:
    """Without what no table shows: of a sweep only the best arm and each drafter's best length."""
    best: dict[tuple, dict] = {}
    for row in rows:
        if row["way"] not in ("arm", "static"):
            yield row
        elif row["section"] not in SWEEPS:
            if row["way"] == "arm" or row["section"] in LENGTHS:
                yield row
        else:
            drafter = row["label"].rpartition(", ")[0] if row["way"] == "static" else ""
            at = (*(row.get(name) for name in KEYS[1:5]), drafter)
            best[at] = max(best.get(at, row), row, key=lambda one: one["speed"])
    yield from best.values()


def costs_row(meta: TraceMeta, every: bool, file: Path | None) -> dict:
    """What is charged, in forwards of one request without drafts."""
    costs = costs_of_file(file, meta, 1) if file else measured_costs(meta)
    about = json.loads(file.read_text()) if file else asdict(meta)
    alone = about["verify"][0][0] if file else meta.verify_seconds[0]
    found = {
        "section": "costs", "every": every, "target": meta.target, "slots": meta.slots,
        "apart": file is not None,
        "forward_ms": round(1e3 * alone, 3), "made_with": about["made_with"],
        "verify": _rounded(costs.verify[0]),
        "draft": dict(zip(meta.drafters, _rounded(costs.draft[0]), strict=True)),
        "catch_up": dict(zip(meta.drafters, _rounded(costs.catch_up), strict=True)),
    }  # fmt: skip
    if file:
        found["batch"] = about["batch"]
        found["by_batch"] = [_rounded([row[0] / alone, row[-1] / alone]) for row in about["verify"]]
    return found


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


def described(traces: Sequence[Trace], every: bool) -> Iterator[dict]:
    """A row for each domain: how much there is of it and how much of each draft is right."""
    joined = join(traces)
    greedy = np.concatenate([np.full(t.requests, t.meta.rule == "greedy") for t in traces])
    for index, domain in enumerate(joined.meta.domains):
        requests = joined.domain == index
        accepted = joined.accepted[requests[joined.request]]
        yield {
            "section": "traces", "every": every, "domain": domain,
            "requests": int(requests.sum()), "greedy": int((requests & greedy).sum()),
            "positions": len(accepted),
            "accepted": dict(zip(joined.meta.drafters, _rounded(accepted.mean(0)), strict=True)),
        }  # fmt: skip
