"""The one command for a machine with a GPU, on machines without: its steps, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess:
    """Without a GPU, whatever the machine has."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip


def test_benchmark_without_a_gpu_says_so(tmp_path):
    out = tmp_path / "gpu.jsonl"
    done = run([sys.executable, "bench/bench_gpu.py", "--out", str(out)])
    assert done.returncode == 1
    assert "needs a GPU" in done.stderr
    assert not out.exists()


def test_command_without_a_gpu_ends_at_once(tmp_path):
    start = time.monotonic()
    done = run(["bash", "bench/gpu.sh", str(tmp_path)], PYTHON=sys.executable)
    assert done.returncode == 1
    assert "no GPU" in done.stdout.splitlines()[-1]
    assert time.monotonic() - start < 60
    assert "no GPU" in (tmp_path / "gpu.log").read_text()


PYTHON = """#!/bin/bash
echo "$@" >> "$CALLS"
case "$*" in
  *"-m gpu"*) echo "one test failed"; exit 1 ;;
  *"-k triton"* | *"-k cuda"*) [[ "$TAPOUT_TEST_BACKENDS" = reference,triton* ]] &&
    [ -z "$TRITON_INTERPRET" ] ;;
  *--table*) echo "the rows" ;;
  *bench_gpu.py*) echo "{}" > "$(dirname "$CALLS")/out/gpu.jsonl" ;;
esac
"""


def test_command_takes_every_step_whatever_fails(tmp_path):
    """A stand-in for Python that says there is a GPU, and fails one step."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)
    variables = {"PYTHON": str(python), "CALLS": str(calls), "TRITON_INTERPRET": "1"}
    done = run(["bash", "bench/gpu.sh", str(tmp_path / "out")], **variables)
    assert done.returncode == 1
    lines = [line.split() for line in done.stdout.splitlines()[-11:-1]]
    steps = {words[0]: " ".join(words[2:]) for words in lines}
    assert steps.pop("matrix-cuda") in ("ok", "no CUDA library")
    for tool in ("memcheck", "racecheck"):
        assert steps.pop(tool) in ("ok", "no compute-sanitizer", "no CUDA library")
    assert steps.pop("build") in ("ok", "no nvcc, tapout_kernels/_C_cuda.so was brought along")
    assert steps == {
        "environment": "ok", "tests": "failed, rc 1", "matrix-triton": "ok", "decoding": "ok",
        "rounds": "ok", "benchmark": "ok",
    }  # fmt: skip
    assert done.stdout.splitlines()[-1] == "the rows"
    assert "one test failed" in (tmp_path / "out/steps.log").read_text()
    assert "--seconds" in calls.read_text()


def test_what_compute_sanitizer_looks_at_is_every_operator():
    code = "import gpu_once; from tapout_kernels._schema import SCHEMAS; " \
           "from tapout_kernels._library import NO_KERNEL; " \
           "assert {case.op for case in gpu_once.cases()} == set(SCHEMAS) - NO_KERNEL['cuda']; " \
           "print(gpu_once.run('reference', 'cpu'))"  # fmt: skip
    done = run([sys.executable, "-c", code], PYTHONPATH=f"{ROOT}:{ROOT / 'bench'}")
    assert int(done.stdout) >= 40, done.stderr


def test_whole_decoding_on_any_device(tmp_path):
    out = tmp_path / "decode.jsonl"
    done = run(
        [sys.executable, "bench/gpu_decode.py", "--device", "cpu", "--size", "tiny", "--dtype",
         "float32", "--tokens", "12", "--batch", "1", "2", "--out", str(out)],
        PYTHONPATH=f"{ROOT}:{ROOT / 'python'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["batch"], row["way"]) for row in rows] == [
        (batch, way) for batch in (1, 2) for way in ("plain", "fixed, 4", "TapOut")
    ]
    for row in rows:
        assert row["tokens"] == 12 * row["batch"]
        assert (row["mean_drafted"] > 0) == (row["way"] != "plain")
        assert row["target"] == "random weights, tiny"


def test_loops_of_rounds_on_any_device(tmp_path):
    out = tmp_path / "rounds.jsonl"
    done = run(
        [sys.executable, "bench/gpu_decode.py", "--device", "cpu", "--size", "tiny", "--dtype",
         "float32", "--tokens", "8", "--batch", "2", "--loops", "--draft", "tiny",
         "--out", str(out)],
        PYTHONPATH=f"{ROOT}:{ROOT / 'python'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["way"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert set(rows) == {"plain", "fixed, 4", "TapOut", "TapOut, eager", "TapOut, checked",
                         "fixed, 6, eager"}  # fmt: skip
    assert "left out: mode: graph needs a GPU" in done.stdout
    for field in ("tokens", "rounds", "mean_accepted", "mean_drafted"):
        of = {rows[way][field] for way in ("TapOut", "TapOut, eager", "TapOut, checked")}
        assert len(of) == 1, field
    assert min(row["host_us"] for row in rows.values()) > 0


def test_command_needs_a_folder():
    done = run(["bash", "bench/gpu.sh"])
    assert done.returncode == 2
    assert "usage" in done.stderr
