"""A round as one CUDA graph: what is refused, and what a driver that fails leaves behind."""

from __future__ import annotations

import gc
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.core_probe import compiler
from helpers.fake_driver import SLOTS, Captured, Round, on_the_host

from tapout_kernels import BackendUnavailable, _library, round_graph
from tapout_kernels.round_graph import RoundGraph, round_graphs_unavailable


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
        assert str(raised.value).startswith(
            f"RoundGraph: {driver.failed()}: CUDA_ERROR_OUT_OF_MEMORY, out"
        )
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
            RuntimeError, match=f"^RoundGraph: {name}: CUDA_ERROR_OUT_OF_MEMORY, out of memory$"
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
    with pytest.raises(RuntimeError, match="RoundGraph: no CUDA context is current"):
        Round(driver)
    driver.library.fake_begin()


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


def test_seventeen_widths_are_too_many(driver):
    parts = [driver.captured() for _ in range(4)]
    tensors = {name: torch.zeros(1, dtype=torch.int32) for name in ("num_active", "steps")}
    verify = dict.fromkeys(range(17), parts[2])
    with pytest.raises(ValueError, match="verify must have at most 16 widths, got 17"):
        RoundGraph(parts[0], parts[1], verify, parts[3], **tensors, slots=16)


def compiled(source: str, library: Path) -> Path:
    command = [compiler(), "-x", "c", "-shared", "-fPIC", "-", "-o", library]
    subprocess.run(command, input=source, text=True, check=True)
    return library


def test_kernels_that_do_not_load(driver, monkeypatch, tmp_path):
    code = 'const char* tapout_graph_kernels() { return "no kernel image is available"; }'
    monkeypatch.setattr(_library, "CUDA_PATH", compiled(code, tmp_path / "libkernels.so"))
    message = "RoundGraph: its kernels did not load: no kernel image is available"
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        Round(driver)


def unavailable_as(driver_path: str | Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(round_graph, "_DRIVER", str(driver_path))
    reason = round_graphs_unavailable()
    with pytest.raises(BackendUnavailable, match=f"^{re.escape(f'RoundGraph: {reason}')}$"):
        RoundGraph(None, None, None, None, num_active=None, steps=None, slots=None)
    return reason


def stub(folder: Path, version: int) -> Path:
    """A driver that knows nothing but its version."""
    code = f"int cuDriverGetVersion(int* version) {{ *version = {version}; return 0; }}"
    return compiled(code, folder / f"libstub{version}.so")


def test_why_there_are_no_round_graphs(driver, monkeypatch, tmp_path):
    assert round_graphs_unavailable() is None
    missing = tmp_path / "libcuda.so.1"
    reason = unavailable_as(missing, monkeypatch)
    assert reason.startswith(f"CUDA's driver does not load: {missing}")
    old = unavailable_as(stub(tmp_path, 12030), monkeypatch)
    assert old == "it needs a driver of CUDA 12.4 or newer, found one of 12.3"
    bare = stub(tmp_path, 12040)
    assert unavailable_as(bare, monkeypatch) == f"{bare} has no cuGetErrorName"
    monkeypatch.setattr(_library, "CUDA_UNAVAILABLE", "torch has no CUDA")
    assert unavailable_as(bare, monkeypatch) == "the CUDA library is off: torch has no CUDA"
    monkeypatch.setattr(round_graph, "_host", None)
    monkeypatch.setattr(round_graph, "_UNAVAILABLE", "No module named '_host'", raising=False)
    expected = "the host library was not built: No module named '_host'"
    assert unavailable_as(bare, monkeypatch) == expected
