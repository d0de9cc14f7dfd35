"""The CUDA library as nvcc makes it: registers and memory of its kernels, its ABI. Collected where
the build has found nvcc; none of this needs a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.core_probe import compiler
from test_build import ROOT, clean_environment, declared_in_the_shim, foreign, run, symbols

from tapout_kernels._library import NO_KERNEL
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


@pytest.mark.parametrize(
    "op", [*(op for op in SCHEMAS if op not in NO_KERNEL["cuda"]), "graph_loop"]
)
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


def test_exports_two_functions():
    expected = {"tapout_graph_kernels", "tapout_schema"}
    assert set(symbols(LIBRARY, "--defined-only")) == expected


def test_the_host_module_has_the_types_of_cudas_header(tmp_path):
    """It declares what it needs of cuda.h, so that it is built without CUDA."""
    source = ROOT / "tests/native/driver_types.cpp"
    run(nvcc(), "-std=c++17", "-x", "c++", "-c", source, "-o", tmp_path / "types.o")


def test_names_the_libraries_that_have_the_shim():
    """Loading it beside a torch without CUDA fails at once, with the name of what is missing."""
    needed = run("readelf", "-d", LIBRARY)
    assert "[libtorch_cpu.so]" in needed
    assert "[libtorch_cuda.so]" in needed
    assert "libcudart" not in needed


LOADED = """
import ctypes, sys, torch
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
torch.version.cuda = "13.0"
from tapout_kernels import _library
from tapout_kernels._schema import SCHEMAS
from tapout_kernels.backends import available_backends, unavailable_reason
assert _library.CUDA_UNAVAILABLE is None, _library.CUDA_UNAVAILABLE
for op in SCHEMAS:
    if op in _library.NO_KERNEL["cuda"]:
        assert "cuda" not in available_backends(op, "cuda")
        continue
    for overload in ("", ".cuda"):
        name = f"tapout_kernels::{op}{overload}"
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
    assert available_backends(op, "cuda")[-1] == "cuda"
    assert "cuda" not in available_backends(op, "cpu")
print(unavailable_reason("cuda", "cpu"))
"""


def test_it_loads_and_serves_every_operator(tmp_path):
    """Beside a stand-in for the one library that a torch without CUDA lacks."""
    stub = tmp_path / "libtorch_cuda.so"
    source = tmp_path / "stub.cpp"
    code = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }'
    source.write_text(code)
    run(compiler(), "-shared", "-fPIC", f"-Wl,-soname,{stub.name}", source, "-o", stub)
    environment = clean_environment(PYTHONPATH=str(ROOT))
    said = run(sys.executable, "-c", LOADED, stub, env=environment, cwd=tmp_path)
    assert said == "it runs on cuda tensors, these are on cpu\n"
