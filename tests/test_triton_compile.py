"""Triton's kernels compile for real GPUs, without one; no size is part of a kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapout_kernels._library import NO_KERNEL
from tapout_kernels._schema import SCHEMAS

ROOT = Path(__file__).parent.parent
# What each operator launches, over all rules, filters and layouts.
KERNELS = {op: {f"{op}_kernel"} for op in SCHEMAS if op not in NO_KERNEL["triton"]} | {
    "verify": {"verify_rows_kernel", "verify_end_kernel"},
    "tree_attention": {"tree_attention_kernel", "tree_attention_merge_kernel"},
}
SLOW = pytest.mark.slow
LIMIT = 600  # seconds, on whatever machine


def compiled_for(target: str, cases: str, cache: Path) -> dict:
    """What helpers/triton_compile.py says of a target; the cache is empty, so all is compiled."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    run = subprocess.run(
        [sys.executable, "-m", "helpers.triton_compile", target, cases],
        env={**kept, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": path},
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module", params=["usual", pytest.param("all", marks=SLOW)])
def sm_90(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return compiled_for("sm_90", request.param, tmp_path_factory.mktemp("sm_90"))


pytestmark = pytest.mark.xdist_group("triton compile")  # once, so on one worker


def test_every_operator_compiles_to_the_kernels_it_should(sm_90):
    assert {op: set(names) for op, names in sm_90["by_op"].items()} == KERNELS


def test_other_sizes_compile_nothing(sm_90):
    """vllm, sglang#18244: a kernel per batch size."""
    assert sm_90["launches_of_other_sizes"] == 10 * sm_90["launches"]
    assert sm_90["after_other_sizes"] == sm_90["compiled"]


def test_nothing_spills(sm_90):
    """Registers that do not suffice go to the stack, in local memory. A few scalars may (32 bytes
    were seen): ptxas lets another block of threads run for it."""
    for name, variants in sm_90["kernels"].items():
        for variant in variants:
            assert variant["reg"] > 0
            assert variant["local"] == 0, (name, variant)
            assert variant["stack"] <= 32, (name, variant)


def test_no_thread_decides_alone(sm_90):
    """A scalar that other programs change must be read by one thread for all: a plain load is
    every thread's own, and threads that disagree wait at different barriers."""
    for name, variants in sm_90["kernels"].items():
        assert not any(variant["volatile"] for variant in variants), name


def test_no_sum_depends_on_the_order_of_atomics(sm_90):
    """Tickets and counts are integers; a float added atomically would not be repeatable."""
    atomics = [a for kinds in sm_90["kernels"].values() for v in kinds for a in v["atomics"]]
    assert atomics, "the tickets"
    assert not [a for a in atomics if a.rsplit(".", 1)[-1][0] in "fb" and "add" in a], atomics


@SLOW
@pytest.mark.parametrize("sm_90", ["all"], indirect=True)
@pytest.mark.parametrize("target", ["sm_80", "gfx942"])
def test_every_operator_compiles_for_other_gpus(target, sm_90, tmp_path):
    found = compiled_for(target, "all", tmp_path)
    assert found["by_op"] == sm_90["by_op"]
    assert found["compiled"] == sm_90["compiled"]
