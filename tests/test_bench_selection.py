"""What the GPU benchmark measures, and against which goals."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import bench_gpu
import gpu_cases
import gpu_peers
from goals import GOALS, goals_of
from gpu_cases import selection


def test_goal_shapes_come_first():
    shapes, first = [case.shape() for case in selection()], set()
    for goal in (*GOALS["triton"], *GOALS["cuda"]):
        wanted = goal.of.items()
        found = [i for i, row in enumerate(shapes) if all(row.get(k) == v for k, v in wanted)]
        assert found, goal
        first.add(found[0])
    assert first == set(range(len(first)))
    assert len(shapes) <= 32, "some minutes"


def test_full_selection_is_every_shape():
    cases = selection(full=True)
    assert cases[: len(selection())] == selection()
    keys = [json.dumps({**case.shape(), "agreement": case.agreement}) for case in cases]
    assert max(Counter(keys).values()) == 1
    verify = {
        (c.batch, c.slots, c.vocab, c.dtype, c.agreement, bool(c.filters))
        for c in cases if c.op == "verify" and c.rule == "token"
    }  # fmt: skip
    axes = (gpu_cases.BATCHES, gpu_cases.SLOTS, gpu_cases.VOCABS, gpu_cases.DTYPES,
            gpu_cases.AGREEMENTS, (False, True))  # fmt: skip
    count = 1
    for axis in axes:
        count *= len(axis)
    assert len(verify) == count


def test_goals_are_judged():
    row = {**selection()[0].shape(), "backend": "triton", "of_floor": 0.69, "times_compile": 5.0}
    assert [(str(goal), met) for goal, met in goals_of(row)] == [
        ("of_floor ≥ 0.7", False), ("times_compile ≥ 5", True)
    ]  # fmt: skip
    assert goals_of({**row, "B": 8}) == []
    assert goals_of({"op": "bandit step", "B": 64, "backend": "triton", "median_us": 3.9})[0][1]
    row = {**row, "backend": "cuda", "of_floor": 0.81, "times_triton": 1.09}
    assert [(goal.bound, met) for goal, met in goals_of(row)] == [(0.8, True), (1.1, False)]


def test_arguments():
    arguments = bench_gpu.parse([])
    assert (arguments.backend, arguments.full, arguments.peers) == (None, False, None)
    assert bench_gpu.parse(["--backend", "cuda"]).backend == ["cuda"]
    assert bench_gpu.parse(["--peers", "folder", "--full"]).peers == Path("folder")
    with pytest.raises(SystemExit):
        bench_gpu.parse(["--backend", "cpu"])


def test_no_peers_without_their_sources(tmp_path):
    assert gpu_peers.load(None)[1].keys() == {"flashinfer", "vllm"}
    found, missing = gpu_peers.load(tmp_path)
    sys.path.remove(str(tmp_path))
    assert not found
    assert all("ModuleNotFoundError" in why for why in missing.values())
