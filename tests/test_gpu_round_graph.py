"""A round as one CUDA graph on a GPU: what it computes, that it never waits, what it keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from helpers.decided import Decided
from helpers.server import FILTERS, Server

from tapout_kernels.round_graph import RoundGraph

pytestmark = pytest.mark.gpu


@functools.cache
def capture_stream() -> torch.cuda.Stream:
    """One for all: each has a workspace of its own."""
    return torch.cuda.Stream()


def capture(function: Callable[[], None]) -> torch.cuda.CUDAGraph:
    graph, stream = torch.cuda.CUDAGraph(keep_graph=True), capture_stream()
    with torch.cuda.stream(stream):
        function()  # compiles, and makes the workspace
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        function()
    return graph


@pytest.mark.parametrize("rule", ["token", "gumbel", "block"])
def test_a_thousand_rounds_are_the_eager_ones(cuda, rule):
    """With other arms, lengths, dead rows and seeds, none and all slots drafted; without a wait."""
    eager = Server("cuda", rule, filters=FILTERS, backend=cuda)
    decided, seen = Decided(Server("cuda", rule, filters=FILTERS, backend=cuda), capture), set()
    for number in range(1000):
        if number % 10 == 0:
            eager.another_day(number)
            if number % 30 == 0:
                eager.live.zero_()
            decided.server.load(eager.saved())
        torch.cuda.set_sync_debug_mode("error")
        try:
            decided.graph.launch()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        eager.run()
        if number % 10 in (0, 9):
            seen.add(decided.same(eager, f"round {number}"))
    assert {0, eager.proposal.slots} <= seen
    decided.graph.close()


def test_launches_and_graphs_keep_memory_flat(cuda):
    server = Server("cuda", backend=cuda)

    def rounds(count: int, launches: int) -> None:
        for _ in range(count):
            decided = Decided(server, capture)
            for _ in range(launches):
                decided.graph.launch()
            torch.cuda.synchronize()
            decided.graph.close()

    def used() -> tuple[int, int]:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        return torch.cuda.memory_allocated(), free

    rounds(3, 10)
    allocated, free = used()
    rounds(1, 1000)
    rounds(20, 10)
    now_allocated, now_free = used()
    assert now_allocated <= allocated
    assert now_free >= free - (16 << 20), "less than 1 MiB for each graph, 16 KiB for each launch"


def test_launches_on_other_streams(cuda):
    """A launch is ordered with what is on its stream, before and after."""
    one = torch.ones(1, dtype=torch.int32, device="cuda")
    steps, count = torch.zeros_like(one), torch.zeros_like(one)
    nothing = torch.zeros_like(one)
    graph = RoundGraph(
        capture(lambda: nothing.zero_()), capture(lambda: count.add_(1)),
        {4: capture(lambda: nothing.zero_())}, capture(lambda: nothing.zero_()),
        num_active=one, steps=steps, slots=4,
    )  # fmt: skip
    torch.cuda.synchronize()
    for stream in (torch.cuda.Stream(), torch.cuda.current_stream()):
        with torch.cuda.stream(stream):
            count.fill_(100)
            graph.launch()
            graph.launch()
            seen = count.clone()
        stream.synchronize()
        assert seen.item() == 108
    assert steps.item() == 4
