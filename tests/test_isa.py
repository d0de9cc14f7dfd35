"""The instruction sets of the cpu backend return the same bits, and one can be forced."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REPORT = "import tapout_kernels.backends as b; print(b.cpu_isa())"
CALL = "import torch, tapout_kernels as t; t.row_stats(torch.zeros(1, 4), backend='cpu')"


def python(*arguments: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TAPOUT_CPU_ISA"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "python", ROOT / "tests")))
    if isa is not None:
        environment["TAPOUT_CPU_ISA"] = isa
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@functools.cache
def available() -> list[str]:
    """Instruction sets that were built and run here, from the message about one that is neither."""
    error = python("-c", CALL, isa="sse9").stderr
    names = re.search(r"TAPOUT_CPU_ISA must be one of ([\w, ]+) \(.*got sse9", error)
    assert names, error
    return names[1].split(", ")


@functools.cache
def digests(isa: str, every: int) -> dict[str, str]:
    done = python("-m", "helpers.digests", str(every), isa=isa)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["isa"] == isa
    return report["digests"]


def test_scalar_is_always_there_and_what_the_processor_has_is_used():
    assert available()[0] == "scalar"
    best = python("-c", REPORT, isa=None).stdout.strip()
    assert best == available()[-1]
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    assert ("avx2" in available()) == {"avx2", "fma", "f16c"}.issubset(flags)
    assert ("avx512" in available()) == {
        "avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl",
    }.issubset(flags)  # fmt: skip
    assert ("avx512_bf16" in available()) == ("avx512" in available() and "avx512_bf16" in flags)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_bf16"])
def test_an_instruction_set_can_be_forced(isa):
    done = python("-c", CALL, isa=isa)
    if isa in available():
        assert done.returncode == 0, done.stderr
        assert python("-c", REPORT, isa=isa).stdout.strip() == isa
    else:  # an error, not another instruction set
        assert done.returncode != 0
        assert f"got {isa}" in done.stderr


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16"])
def test_bits_are_those_of_the_scalar_kernels(isa, every):
    if isa not in available():
        pytest.skip(f"this processor has no {isa}")
    expected, found = digests("scalar", every), digests(isa, every)
    assert len(expected) > 150
    # The inputs differ; outcomes may be alike (a ragged layout changes none).
    assert len(set(expected.values())) > 0.9 * len(expected)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_the_report_says_why_a_wrong_instruction_set_is_off():
    done = python("-m", "tapout_engine", "env", isa="sse9")
    assert done.returncode == 0, done.stderr
    assert re.search(r"cpu +off: TAPOUT_CPU_ISA must be one of .*got sse9", done.stdout)
