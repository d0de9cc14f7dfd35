"""A round as one CUDA graph: on a driver that runs graphs on the host, with the real kernels."""

from __future__ import annotations

import contextlib
import gc
import re
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import fake_driver
from helpers.core_probe import compiler
from helpers.fake_driver import Captured, FakeDriver

from tapout_kernels import BackendUnavailable, _library, round_graph
from tapout_kernels.round_graph import RoundGraph, round_graphs_unavailable

SLOTS, STREAM = 5, 0x1234


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """The driver and tensors of the host instead of CUDA's; it must have had no complaint."""
    found = FakeDriver(fake_driver.library())
    stream = SimpleNamespace(cuda_stream=STREAM)
    monkeypatch.setattr(round_graph, "_DRIVER", found.path)
    monkeypatch.setattr(round_graph, "CUDAGraph", Captured)
    monkeypatch.setattr(round_graph, "Stream", SimpleNamespace)
    monkeypatch.setattr(_library, "CUDA_PATH", Path(found.path))
    monkeypatch.setattr(_library, "CUDA_DEVICES", {"cuda", "cpu"})
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    round_graph._kernels.cache_clear()
    yield found
    round_graph._kernels.cache_clear()
    gc.collect()
    assert found.complaints() == ""
    assert found.state() == (0, 1, 0)


class Round:
    """A round whose requests draft as planned: what num_active is before each step."""

    def __init__(self, driver: FakeDriver, widths: Sequence[int] = (SLOTS,), slots: int = SLOTS):
        self.log: list[str] = []
        self.plan: Sequence[int] = ()
        self.num_active = torch.full((1,), 77, dtype=torch.int32)
        self.steps = torch.full((1,), 99, dtype=torch.int32)
        before, body, after = (
            driver.captured(getattr(self, x)) for x in ("before", "body", "after")
        )
        verify = {width: driver.captured(self.verify(width)) for width in widths}
        self.graph = RoundGraph(before, body, verify, after, num_active=self.num_active,
                                steps=self.steps, slots=slots)  # fmt: skip

    def before(self) -> None:
        self.log.append("before")
        self.steps.fill_(-3)  # the loop itself begins at 0
        self.num_active.fill_(self.plan[0])

    def body(self) -> None:
        self.log.append(f"body {self.steps.item()}")
        self.num_active.fill_(self.plan[self.steps.item() + 1])

    def verify(self, width: int) -> Callable[[], None]:
        return lambda: self.log.append(f"verify {width}")

    def after(self) -> None:
        self.log.append(f"after {self.steps.item()}")

    def launch(self, plan: Sequence[int]) -> list[str]:
        self.plan = plan
        self.log.clear()
        self.graph.launch()
        return list(self.log)


def on_the_host(plan: Sequence[int], widths: Sequence[int], slots: int = SLOTS) -> list[str]:
    """The same round by a loop that asks."""
    log, steps = ["before"], 0
    while plan[steps] > 0 and steps < slots:
        log.append(f"body {steps}")
        steps += 1
    width = next(width for width in widths if width >= steps)
    return [*log, f"verify {width}", f"after {steps}"]


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
    assert resident() - begun < 1 << 20
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
    assert resident() - begun < 1 << 20


# ---- Errors of the driver -----------------------------------------------------------------------


def test_every_call_of_the_driver_may_fail_and_nothing_is_left_behind(driver):
    Round(driver, (2, SLOTS))  # loads the kernels
    gc.collect()
    parts = [driver.captured(nodes=["kernel", "graph"]) for _ in range(5)]
    tensors = {name: torch.zeros(1, dtype=torch.int32) for name in ("num_active", "steps")}

    def build() -> RoundGraph:
        verify = {2: parts[2], SLOTS: parts[3]}
        return RoundGraph(parts[0], parts[1], verify, parts[4], **tensors, slots=SLOTS)

    driver.fail_at(0)
    build().close()
    calls = driver.calls() - 2  # closing has two
    before, seen = driver.state(), set()
    for call in range(1, calls + 1):
        driver.fail_at(call)
        with pytest.raises(RuntimeError) as raised:
            build()
        assert str(raised.value).startswith(f"{driver.failed()}: CUDA_ERROR_OUT_OF_MEMORY, out of")
        assert driver.state() == before
        seen.add(driver.failed())
    assert seen == {
        "cuCtxGetCurrent", "cuGraphCreate", "cuGraphGetNodes", "cuGraphNodeGetType",
        "cuGraphChildGraphNodeGetGraph", "cuGraphAddNode_v2", "cuGraphConditionalHandleCreate",
        "cuGraphInstantiateWithParams",
    }  # fmt: skip


def test_a_launch_that_fails_can_be_made_again(driver):
    decided, plan = Round(driver), [1, 0, 0]
    before = driver.state()
    for call, name in enumerate(("cuCtxPushCurrent_v2", "cuGraphLaunch"), 1):
        driver.fail_at(call)
        with pytest.raises(
            RuntimeError, match=f"^{name}: CUDA_ERROR_OUT_OF_MEMORY, out of memory$"
        ):
            decided.launch(plan)
        assert decided.log == []
        assert driver.state() == before
    assert decided.launch(plan) == on_the_host(plan, (SLOTS,))


def test_a_graph_that_cannot_be_destroyed_is_no_error(driver):
    decided = Round(driver)
    driver.fail_at(1)
    decided.graph.close()
    assert driver.failed() == "cuGraphExecDestroy"
    assert "before its executable one" in driver.complaints()
    driver.library.fake_begin()


def test_without_a_context_nothing_is_built(driver):
    driver.library.fake_no_context()
    with pytest.raises(RuntimeError, match="no CUDA context is current"):
        Round(driver)
    driver.library.fake_begin()


def test_a_thread_without_a_context_may_launch_and_close(driver):
    decided, logs = Round(driver), []

    def work() -> None:
        logs.append(decided.launch([1, 1, 0]))
        decided.graph.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert logs == [on_the_host([1, 1, 0], (SLOTS,))]


@pytest.mark.parametrize(
    ("part", "node"),
    [("body", "host"), ("body", "record"), ("verify 5", "alloc"), ("verify 5", "memop"),
     ("before", "alloc"), ("after", "conditional"), ("after", "free")],
)  # fmt: skip
def test_nodes_that_a_part_may_not_hold_are_named(driver, part, node):
    parts = {name: driver.captured() for name in ("before", "body", "verify 5", "after")}
    parts[part] = driver.captured(nodes=["kernel", node, node])
    verify = {5: parts.pop("verify 5")}
    tensors = {name: torch.zeros(1, dtype=torch.int32) for name in ("num_active", "steps")}
    says = {"record": "event record", "alloc": "allocation", "memop": "memory operation"}
    message = f"RoundGraph: {part} must be without {says.get(node, node)} nodes, got 2"
    with pytest.raises(ValueError, match=f"^{message}$"):
        RoundGraph(**parts, verify=verify, **tensors, slots=5)


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


# ---- Arguments and availability -----------------------------------------------------------------

WRONG = {
    "before": (3, TypeError, "before must be a torch.cuda.CUDAGraph, got int"),
    "body": (Captured(), ValueError, "body must be captured with keep_graph=True, got: You cannot "
             "access the raw cudaGraph_t instance"),
    "verify": ([4], TypeError, "verify must be a mapping, got list"),
    "num_active": ([0], TypeError, "num_active must be a Tensor, got list"),
    "steps": (torch.zeros(1, dtype=torch.int64), TypeError, "steps must be int32, got int64"),
    "slots": (2.0, TypeError, "slots must be an int, got float"),
}  # fmt: skip
RISE = "widths of verify must rise to slots = 4, got"
MORE = {
    "shape": ("num_active", torch.zeros((), dtype=torch.int32), ValueError,
              "num_active must be [1], got []"),
    "device": ("num_active", torch.zeros(1, dtype=torch.int32, device="meta"), ValueError,
               "num_active must be on a cuda device, got meta"),
    "zero": ("slots", 0, ValueError, "slots must be at least 1, got 0"),
    "bool": ("slots", True, TypeError, "slots must be an int, got bool"),
    "empty": ("verify", {}, ValueError, f"{RISE} []"),
    "short": ("verify", [2, 3], ValueError, f"{RISE} [2, 3]"),
    "falling": ("verify", [4, 2], ValueError, f"{RISE} [4, 2]"),
    "negative": ("verify", [-1, 4], ValueError, f"{RISE} [-1, 4]"),
    "width": ("verify", ["a", 4], TypeError, "widths of verify must be int, got 'a'"),
    "many": ("verify", range(-12, 5), ValueError, "verify must have at most 16 widths, got 17"),
    "forward": ("verify", {4: None}, TypeError,
                "verify[4] must be a torch.cuda.CUDAGraph, got NoneType"),
}  # fmt: skip
MORE |= {f"wrong {name}": (name, *rest) for name, rest in WRONG.items()}


@pytest.mark.parametrize("case", MORE)
def test_wrong_arguments(driver, case):
    name, value, kind, message = MORE[case]
    arguments = {part: driver.captured() for part in ("before", "body", "after")}
    arguments |= {part: torch.zeros(1, dtype=torch.int32) for part in ("num_active", "steps")}
    arguments |= {"slots": 4, "verify": {4: driver.captured()}}
    if name == "verify" and case != "wrong verify" and not isinstance(value, dict):
        value = {width: driver.captured() for width in value}
    before = driver.state()
    with pytest.raises(kind, match=f"^{re.escape('RoundGraph: ' + message)}$"):
        RoundGraph(**{**arguments, name: value})
    assert driver.state() == before


def test_two_tensors_and_a_stream_are_wanted(driver):
    parts = [driver.captured() for _ in range(4)]
    one = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(
        ValueError, match="steps must be another tensor than num_active, got the same"
    ):
        RoundGraph(*parts[:2], {1: parts[2]}, parts[3], num_active=one, steps=one, slots=1)
    with pytest.raises(TypeError, match=r"stream must be a torch\.cuda\.Stream, got int"):
        Round(driver).graph.launch(0)
    decided = Round(driver)
    decided.plan = [0]
    decided.graph.launch(SimpleNamespace(cuda_stream=0))
    assert driver.library.fake_stream() is None


def unavailable_as(driver_path: str | Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(round_graph, "_DRIVER", str(driver_path))
    reason = round_graphs_unavailable()
    with pytest.raises(BackendUnavailable, match=f"^{re.escape(f'RoundGraph: {reason}')}$"):
        RoundGraph(None, None, None, None, num_active=None, steps=None, slots=None)
    return reason


def stub(folder: Path, version: int) -> Path:
    """A driver that knows nothing but its version."""
    source, library = folder / "stub.c", folder / f"libstub{version}.so"
    source.write_text(f"int cuDriverGetVersion(int* version) {{ *version = {version}; return 0; }}")
    subprocess.run([compiler(), "-x", "c", "-shared", "-fPIC", source, "-o", library], check=True)
    return library


def test_why_there_are_no_round_graphs(driver, monkeypatch, tmp_path):
    assert round_graphs_unavailable() is None
    missing = tmp_path / "libcuda.so.1"
    reason = unavailable_as(missing, monkeypatch)
    assert reason.startswith(f"CUDA's driver does not load: {missing}")
    old = unavailable_as(stub(tmp_path, 12030), monkeypatch)
    assert old == "it needs a driver of CUDA 12.4 or newer, found one of 12.3"
    bare = stub(tmp_path, 12040)
    assert unavailable_as(bare, monkeypatch) == f"{bare} has no cuGetErrorName"
    monkeypatch.setattr(_library, "CUDA_DEVICES", {"cuda"})
    monkeypatch.setattr(_library, "CUDA_UNAVAILABLE", "torch has no CUDA")
    assert unavailable_as(bare, monkeypatch) == "the CUDA library is off: torch has no CUDA"
    monkeypatch.setattr(round_graph, "_host", None)
    monkeypatch.setattr(round_graph, "_UNAVAILABLE", "No module named '_host'", raising=False)
    expected = "the host library was not built: No module named '_host'"
    assert unavailable_as(bare, monkeypatch) == expected
