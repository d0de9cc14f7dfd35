"""What only a GPU can show: captured graphs, streams, launches, no wait for the host."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import raw
from helpers.server import FILTERS, Server

import tapout_kernels as tk
from tapout_kernels import _library
from tapout_kernels.backends import unavailable_reason
from tapout_kernels.reference.accept import RULES
from tapout_kernels.testing import Case

pytestmark = pytest.mark.gpu
each_rule = pytest.mark.parametrize("rule", RULES)
each_filter = pytest.mark.parametrize("filters", [{}, FILTERS], ids=["plain", "filtered"])


@pytest.fixture
def server(gpu) -> Callable[..., Server]:
    """Servers of one backend: ``server(rule, **fields)``."""
    return partial(Server, "cuda", backend=gpu)


def capture(server: Server) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        server.run()
    return graph


def same(left: Server, right: Server, context: str = "") -> None:
    raw.same(left.tensors(), right.tensors(), context)


def test_the_best_backend_is_what_runs_on_a_gpu(gpu):
    """And what a call without a backend runs is that one, to the bit."""
    best = tk.available_backends("verify", "cuda")[-1]
    assert best == ("cuda" if unavailable_reason("cuda", "cuda") is None else "triton")
    for op in raw.ALL_OPS:
        expected = "reference" if op in _library.NO_KERNEL[best] else best
        assert tk.backends.default_backend(op, "cuda") == expected
    if gpu == best:
        default, asked = Server("cuda"), Server("cuda", backend=gpu)
        default.run()
        asked.run()
        same(default, asked)


@each_filter
@each_rule
def test_a_round_on_the_gpu_is_the_references(server, rule, filters):
    """Integers; these rows have no near tie."""
    found, expected = server(rule, filters=filters), Server("cpu", rule, filters=filters,
                                                            backend="reference")  # fmt: skip
    for _ in range(3):
        found.run()
        expected.run()
        for name in ("tokens", "num_accepted", "num_emitted", "last_token", "status"):
            mine, theirs = (getattr(side.verdict, name).cpu() for side in (found, expected))
            assert torch.equal(mine, theirs), name


@each_filter
@each_rule
def test_replay_equals_eager_with_other_lengths_seeds_and_arms(server, rule, filters):
    eager, captured = server(rule, filters=filters), server(rule, filters=filters)
    eager.run()  # compiles
    before = captured.saved()
    graph = capture(captured)
    captured.load(before)
    graph.replay()
    same(captured, eager, "first replay")
    for day in range(4):
        eager.another_day(day)
        captured.load(eager.saved())
        for _ in range(3):
            eager.run()
            graph.replay()
            same(captured, eager, f"day {day}")


def test_capture_after_warmup(server, gpu, monkeypatch):
    monkeypatch.setattr(tk.backends, "_DEFAULT", gpu)
    tk.warmup("cuda", vocab=5000, dtype=torch.bfloat16, slots=3, batch_sizes=[8])
    captured, eager = server(), server()
    before = captured.saved()
    graph = capture(captured)
    captured.load(before)
    graph.replay()
    eager.run()
    same(captured, eager)


def test_a_capture_has_scratch_of_its_own(server):
    """A stream no launch has used yet, and launches between replays that want more scratch."""
    eager, captured = server(), server()
    eager.run()
    before = captured.saved()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        captured.run()
    larger = server(batch=32, vocab=50000)
    larger.run()
    captured.load(before)
    graph.replay()
    larger.run()
    same(captured, eager)


def test_a_capture_keeps_the_scratch_it_began_with(server):
    """The stream's scratch is outgrown after the capture, and its memory asked for again."""
    eager, captured, larger = server(), server(), server(batch=32, vocab=50000)
    eager.run()
    before, graph, stream = captured.saved(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        captured.run()  # scratch for this stream
    with torch.cuda.graph(graph, stream=stream):
        captured.run()
    with torch.cuda.stream(stream):
        larger.run()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    garbage = [torch.full((1 << 20,), 255, dtype=torch.uint8, device="cuda") for _ in range(64)]
    captured.load(before)
    graph.replay()
    same(captured, eager)
    assert all((block == 255).all() for block in garbage)


@each_filter
@each_rule
def test_a_round_never_waits_for_the_gpu(server, rule, filters):
    warm = server(rule, filters=filters)
    warm.run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        warm.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_debug_mode_sees_a_wait():
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- launches ------------------------------------------------------------------------------------


def nodes_of(graph: torch.cuda.CUDAGraph) -> int:
    runtime = ctypes.CDLL(f"libcudart.so.{torch.version.cuda.split('.')[0]}")
    count = ctypes.c_size_t()
    handle = ctypes.c_void_p(graph.raw_cuda_graph())
    assert runtime.cudaGraphGetNodes(handle, None, ctypes.byref(count)) == 0
    return count.value


def launches_of(case: Case, backend: str) -> int:
    """What one call puts on the GPU, copies and fills included."""
    args = {name: value.cuda() if isinstance(value, torch.Tensor) else value
            for name, value in case.inputs().items()}  # fmt: skip
    call = raw.caller(backend)
    graph, stream = torch.cuda.CUDAGraph(keep_graph=True), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(case.op, **args)  # compiles, and makes the workspace
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        call(case.op, **args)
    return nodes_of(graph)


BASE = Case("verify", batch=8, slots=4, vocab=32000, dtype=torch.bfloat16)
LAUNCHES = {
    BASE.with_(op="row_stats"): 1,
    BASE.with_(op="draft_step"): 1,
    BASE.with_(op="draft_step", batch=1, vocab=128256): 1,
    BASE.with_(op="draft_step", rule="gumbel", sampling="all"): 1,
    BASE.with_(op="proposal_reset"): 1,
    BASE.with_(op="bandit_select"): 1,
    BASE.with_(op="bandit_update"): 1,
    BASE.with_(op="bandit_step"): 1,
    BASE.with_(op="tree_layout"): 1,
    BASE.with_(op="tree_mask"): 1,
    BASE.with_(op="tree_mask_flat"): 1,
    BASE.with_(op="compact_kv", ragged=True, extras=True): 1,
    BASE.with_(op="tree_verify", sampling="all"): 1,
    BASE.with_(op="tree_rerank"): 1,
    BASE.with_(op="tree_expand", extras=True): 1,
    BASE.with_(op="tree_expand", drafts="one_hot"): 1,
    BASE: 2,
    BASE.with_(drafts="one_hot"): 2,
    BASE.with_(rule="greedy"): 2,
    BASE.with_(rule="gumbel"): 2,
    BASE.with_(rule="block"): 3,
    BASE.with_(extras=True): 3,
    BASE.with_(sampling="all"): 3,
    BASE.with_(sampling="all", rule="block", extras=True): 3,
}


@pytest.mark.parametrize("case", LAUNCHES, ids=lambda case: case.name)
def test_number_of_launches(gpu, case):
    if case.op in _library.NO_KERNEL[gpu]:
        return
    assert 1 <= launches_of(case, gpu) <= LAUNCHES[case]


# ---- batch, streams, workspace -------------------------------------------------------------------


@each_filter
@each_rule
def test_a_row_alone_is_the_row_in_the_batch(gpu, rule, filters):
    """At a vocabulary that is split over programs: how many depends on the batch."""
    case = Case("verify", batch=32, slots=2, vocab=151936, dtype=torch.bfloat16, rule=rule,
                sampling="all" if filters else "plain")  # fmt: skip
    args = {name: value.cuda() if isinstance(value, torch.Tensor) else value
            for name, value in case.inputs().items()}  # fmt: skip
    call = raw.caller(gpu)
    whole = raw.run(call, "verify", args)
    for row in (0, 13, 31):
        part = {name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
                for name, value in args.items()}  # fmt: skip
        alone = raw.run(call, "verify", part)
        raw.same(alone, {name: value[row : row + 1] for name, value in whole.items()}, str(row))


def test_two_streams_at_once(server):
    """Scratch and tickets of one stream are not the other's."""
    sizes = {"batch": 4, "vocab": 128256, "filters": FILTERS}
    expected, running = server(**sizes), [server(**sizes) for _ in range(2)]
    for _ in range(20):
        expected.run()
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in running]
    for _ in range(20):
        for one, stream in zip(running, streams, strict=True):
            with torch.cuda.stream(stream):
                one.run()
    torch.cuda.synchronize()
    for one in running:
        same(one, expected)


def test_a_workspace_that_grows_leaves_nothing_behind(server):
    small, large, expected = server(batch=2), server(batch=32, vocab=50000), server(batch=2)
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            small.run()
            large.run()
        torch.cuda.synchronize()
    for _ in range(3):
        expected.run()
    same(small, expected)
