"""A round as one CUDA graph: on a driver that runs graphs on the host, with the real kernels."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.decided import Decided
from helpers.fake_driver import SLOTS, STREAM, Round, on_the_host
from helpers.server import Server

from tapout_kernels.round_graph import RoundGraph


@pytest.mark.parametrize("widths", [(5,), (0, 5), (1, 3, 5), (0, 1, 2, 3, 4, 5)], ids=str)
def test_a_launch_is_the_loop_that_asks(driver, widths):
    """Every number of steps, none and more than there are slots included, one after the other."""
    decided = Round(driver, widths)
    plans = [[*[3] * steps, *[0] * (SLOTS + 2)] for steps in range(SLOTS + 2)]
    plans += [[-1] * (SLOTS + 1), [1, 2, 0, 4, 4, 4], [2**31 - 1] * (SLOTS + 1)]
    for plan in [*plans, *reversed(plans)]:
        assert decided.launch(plan) == on_the_host(plan, widths), plan
    assert driver.library.fake_stream() == STREAM


def test_sixteen_widths_and_one_slot(driver):
    widths = tuple(range(2, 18))
    decided = Round(driver, widths, slots=17)
    for steps in (0, 2, 3, 16, 17):
        plan = [*[1] * steps, *[0] * 18]
        assert decided.launch(plan) == on_the_host(plan, widths, 17)
    assert Round(driver, (1,), slots=1).launch([1, 1]) == [
        "before",
        "body 0",
        "verify 1",
        "after 1",
    ]


def test_a_round_of_the_operators_is_the_eager_one(driver, native):
    """With other arms, lengths, dead rows and seeds; what a GPU shows in test_gpu_round_graph."""
    eager = Server("cpu", backend=native, vocab=100)
    decided, seen = Decided(Server("cpu", backend=native, vocab=100), driver.captured), set()
    for number in range(60):
        if number % 10 == 0:
            eager.another_day(number)
            if number % 30 == 0:
                eager.live.zero_()
            decided.server.load(eager.saved())
        decided.graph.launch()
        eager.run()
        seen.add(decided.same(eager, f"round {number}"))
    assert {0, eager.proposal.slots} <= seen


FLAT = 4 << 20  # some arenas of Python's; 450 bytes for each of 9,000 rounds


def resident() -> int:
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_ten_thousand_rounds_keep_memory_flat(driver):
    decided, rounds = Round(driver, (2, SLOTS)), np.random.default_rng(7)
    plans = rounds.integers(-1, 4, (10_000, SLOTS + 1)).tolist()
    alive = driver.alive()
    for i, plan in enumerate(plans):
        if i == 1000:
            begun = resident()
        decided.launch(plan)
        if i % 97 == 0:
            assert decided.log == on_the_host(plan, (2, SLOTS))
    assert resident() - begun < FLAT
    assert driver.alive() == alive


def test_rounds_that_are_closed_leave_nothing(driver):
    parts = [driver.captured() for _ in range(4)]
    tensors = {name: torch.zeros(1, dtype=torch.int32) for name in ("num_active", "steps")}
    for i in range(2000):
        if i == 500:
            begun = resident()
        graph = RoundGraph(parts[0], parts[1], {3: parts[2]}, parts[3], **tensors, slots=3)
        if i % 2:
            graph.close()
        del graph
        assert driver.alive() == len(parts)
    assert resident() - begun < FLAT


def test_a_thread_without_a_context_may_launch_and_close(driver):
    decided, logs = Round(driver), []

    def work() -> None:
        logs.append(decided.launch([1, 1, 0]))
        decided.graph.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert logs == [on_the_host([1, 1, 0], (SLOTS,))]


def test_nodes_says_what_the_graph_holds(driver):
    parts = {"before": ["kernel", "host", "kernel"], "after": [],
             "body": ["kernel", "memset", "graph", "kernel"]}  # fmt: skip
    captured = {name: driver.captured(nodes=nodes) for name, nodes in parts.items()}
    verify = {2: driver.captured(nodes=["memcpy"]), 6: driver.captured(nodes=["empty"])}
    tensors = {name: torch.zeros(1, dtype=torch.int32) for name in ("num_active", "steps")}
    graph = RoundGraph(**captured, verify=verify, **tensors, slots=6)
    assert graph.nodes() == [
        "before: 2 kernel, 1 host",
        "begin: 1 kernel",
        "while num_active > 0 and steps < 6",
        "  body: 3 kernel, 2 memset",
        "  continue: 1 kernel",
        "choose: 1 kernel",
        "if steps <= 2",
        "  verify 2: 1 memcpy",
        "if 2 < steps <= 6",
        "  verify 6: 1 empty",
        "after",
    ]


# ---- Ownership ----------------------------------------------------------------------------------


def test_closing(driver):
    decided = Round(driver)
    parts = driver.alive()
    decided.graph.close()
    assert driver.alive() < parts
    decided.graph.close()
    with pytest.raises(RuntimeError, match="RoundGraph: launch after close"):
        decided.graph.launch()
    assert decided.graph.nodes()[0] == "before: 1 kernel"


def test_two_threads_launch_one_after_the_other(driver):
    decided = Round(driver)
    decided.plan = [1] * SLOTS + [0]
    threads = [threading.Thread(target=lambda: [decided.graph.launch() for _ in range(200)])
               for _ in range(2)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decided.log == on_the_host(decided.plan, (SLOTS,)) * 400


@pytest.mark.parametrize("collected", [False, True], ids=["closed", "collected"])
def test_captured_graphs_and_tensors_live_as_long_as_the_round(driver, collected):
    parts = [driver.captured() for _ in range(4)]
    tensors = {name: torch.zeros(1, dtype=torch.int32) for name in ("num_active", "steps")}
    graph = RoundGraph(parts[0], parts[1], {2: parts[2]}, parts[3], **tensors, slots=2)
    watched = [weakref.ref(x) for x in (*parts, *tensors.values())]
    parts.clear()
    tensors.clear()
    gc.collect()
    graph.launch()
    assert all(reference() is not None for reference in watched)
    if collected:
        del graph
    else:
        graph.close()
    assert all(reference() is None for reference in watched)
    assert driver.alive() == 0
