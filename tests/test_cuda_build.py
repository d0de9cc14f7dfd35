"""The CUDA library as nvcc makes it: registers and memory of its kernels, its ABI. Collected where
the build has found nvcc; none of this needs a GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from test_build import ROOT, declared_in_the_shim, foreign, run, symbols

from tapout_kernels._schema import SCHEMAS

LIBRARY = ROOT / "tapout_kernels/_C_cuda.so"
SOURCES = [path for folder in ("core", "cuda") for path in (ROOT / "csrc" / folder).iterdir()]


def nvcc() -> str:
    """The compiler that a build of this checkout has found."""
    for cache in ROOT.glob("build/*/CMakeCache.txt"):
        found = re.search(r"^TAPOUT_NVCC:\w+=(.+)$", cache.read_text(), re.MULTILINE)
        if found and Path(found[1]).exists():
            return found[1]
    return "nvcc"


def ptxas_report(op: str) -> str:
    """What ptxas says of an operator's kernels: in a build that is newer than all sources and has
    sm_90, else when asked here."""
    newest = max(path.stat().st_mtime for path in SOURCES)
    reports = [path.parent / f"cuda/{op}.o.ptxas" for path in ROOT.glob("build/*/_C_cuda.so")
               if path.stat().st_mtime > newest]  # fmt: skip
    own = ROOT / f"build/ptxas/{op}.txt"
    if own.exists() and own.stat().st_mtime > newest:
        reports.append(own)
    for report in reports:
        if "for 'sm_90'" in report.read_text():
            return report.read_text()
    own.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++17", "-O3", "-fmad=false", "-arch=sm_90", "-Xptxas", "-v", "-cubin"]
    command = [nvcc(), *flags, ROOT / f"csrc/cuda/{op}.cu", "-o", own.with_suffix(".cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own.write_text(done.stderr)
    return done.stderr


@pytest.mark.parametrize("op", SCHEMAS)
def test_kernels_stay_in_registers(op):
    """No stack frame, so no spills and no local memory; a warning is a mistake too."""
    report = ptxas_report(op)
    kernels = [part for part in report.split("Compiling entry function ") if "for 'sm_90'" in part]
    assert kernels
    for kernel in kernels:
        memory = re.findall(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", kernel
        )
        assert set(memory) == {("0", "0", "0")}, kernel
    assert "warning" not in report, report


def test_undefined_symbols_are_the_stable_shim_and_the_c_and_cpp_runtimes():
    """CUDA's runtime is inside: the library needs torch's CUDA build and a driver, nothing else."""
    undefined = symbols(LIBRARY, "--undefined-only")
    assert "aoti_torch_get_current_cuda_stream" in undefined
    assert foreign(undefined) == []


def test_shim_symbols_existed_in_torch_2_10():
    undefined = symbols(LIBRARY, "--undefined-only")
    used = {name for name in undefined if re.match(r"(aoti_)?torch_", name)}
    assert used - declared_in_the_shim("-DUSE_CUDA") == set()


def test_exports_one_function():
    assert symbols(LIBRARY, "--defined-only") == ["tapout_schema"]


def test_names_the_libraries_that_have_the_shim():
    """Loading it beside a torch without CUDA fails at once, with the name of what is missing."""
    needed = run("readelf", "-d", LIBRARY)
    assert "[libtorch_cpu.so]" in needed
    assert "[libtorch_cuda.so]" in needed
    assert "libcudart" not in needed
