"""Timing on a GPU: many calls in one CUDA graph, buffers rotated beyond the L2, CUDA events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache

import torch

Call = Callable[[int], object]  # of the number of the call
FILL = 4  # the buffers of a rotation hold this many times the L2
CALLS = 64  # in one graph, at least: what a replay costs to start is shared by them
QUEUED = (1_000_000, 4_000)  # cycles, and for each call, to keep the device busy meanwhile


def l2_bytes() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size


def sets_for(touched: int, least: int = 2) -> int:
    """Buffer sets so that what a rotation touches exceeds the L2 ``FILL`` times."""
    return max(least, math.ceil(FILL * l2_bytes() / touched))


def calls_for(sets: int) -> int:
    """Every set equally often."""
    return sets * math.ceil(CALLS / sets)


@cache
def _stream() -> torch.cuda.Stream:
    """One for everything, so that one workspace serves every capture."""
    return torch.cuda.Stream()


def captured(function: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of what the function launches, which can become part of another one."""
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.stream(_stream()):
        function()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=_stream()):
            function()
    return graph


def graph_times_us(
    function: Call,
    calls: int,
    before: Callable[[], object] | None = None,
    budget_s: float = 0.3,
) -> list[float]:
    """Sorted microseconds of a call, one sample for each replay of a graph of ``calls`` calls.

    ``before()`` runs before each replay, outside the clock.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(_stream()):
        _prepare(function, before)
        with torch.cuda.graph(graph, stream=_stream()):
            for i in range(calls):
                function(i)
        return _samples(graph.replay, calls, before, budget_s)


def event_times_us(
    function: Call,
    calls: int,
    before: Callable[[], object] | None = None,
    budget_s: float = 0.3,
) -> list[float]:
    """The same without a graph, for code that cannot be captured."""

    def replay() -> None:
        for i in range(calls):
            function(i)

    with torch.cuda.stream(_stream()):
        _prepare(function, before)
        return _samples(replay, calls, before, budget_s)


def _prepare(function: Call, before: Callable[[], object] | None) -> None:
    """Compile, allocate, and leave nothing under way; inputs were made on another stream."""
    torch.cuda.synchronize()
    for i in range(3):
        if before is not None:
            before()
        function(i)
    torch.cuda.synchronize()


def _samples(
    replay: Callable[[], object],
    calls: int,
    before: Callable[[], object] | None,
    budget_s: float,
    least: int = 7,
    most: int = 60,
) -> list[float]:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while len(samples) < least or (time.perf_counter() < end and len(samples) < most):
        if before is not None:
            before()
        torch.cuda._sleep(QUEUED[0] + QUEUED[1] * calls)  # else the host's launch is timed too
        start.record()
        replay()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop) * 1e3 / calls)
    return sorted(samples[1:])  # the first replay uploads the graph
