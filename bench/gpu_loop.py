"""A round as one CUDA graph beside its parts replayed one after the other."""

from __future__ import annotations

import checks
import torch
from gpu_bench import Bench, Row
from gpu_cases import Case
from harness import summary, times_us

from tapout_kernels.round_graph import RoundGraph


def round_graph_row(bench: Bench, case: Case) -> Row:
    """K steps of one small kernel: what a step costs in a WHILE node beyond what its replay does.

    ``median_us``: a whole round on the device. ``host_us``: a launch on the host.
    """
    active = torch.ones(1, dtype=torch.int32, device=bench.device)
    steps, count, seen = (torch.zeros_like(active) for _ in range(3))
    before, body = bench.captured(lambda: count.zero_()), bench.captured(lambda: count.add_(1))
    verify, after = (bench.captured(lambda: seen.copy_(count)) for _ in range(2))
    graph = RoundGraph(
        before, body, {case.slots: verify}, after, num_active=active, steps=steps, slots=case.slots
    )

    def replay(_: int) -> None:
        before.replay()
        for _ in range(case.slots):
            body.replay()
        verify.replay()
        after.replay()

    graph.launch()
    if not steps.item() == seen.item() == case.slots:
        checks.refuse("round graph", f"{steps.item()} steps, not {case.slots}")
    looped = summary(bench.slow_times_us(lambda _: graph.launch(), 1))
    replayed = summary(bench.slow_times_us(replay, 1))["median_us"]
    host = summary(times_us(lambda _: graph.launch(), budget_s=0.1))["median_us"]
    graph.close()
    over = round((looped["median_us"] - replayed) / case.slots, 2)
    return {
        **case.shape(), **looped, "replay_us": replayed, "step_over_replay_us": over,
        "host_us": host,
    }  # fmt: skip
