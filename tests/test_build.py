"""Installing: the full build beside torch, what is left without compiler or torch, the ABI."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from helpers.core_probe import compiler

ROOT = Path(__file__).parent.parent
SITE = Path(site.getsitepackages()[0])
LIBRARY = ROOT / "tapout_kernels/_C.so"
SOURCES = ["tapout_kernels", "python", "csrc", "CMakeLists.txt", "setup.py", "pyproject.toml",
           "MANIFEST.in", "README.md", "LICENSE"]  # fmt: skip
REPORT = """
import json, tapout_kernels as tk, torch
row = tk.row_stats(torch.zeros(2, 8))
print(json.dumps({"file": tk.__file__, "report": tk.backend_report(), "top1": row[0, 2].item()}))
"""


def run(*command: object, **options: object) -> str:
    """Output of a command that must succeed; both streams in the error if it does not."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the sources without what this checkout has built."""
    tree = tmp_path / "source"
    tree.mkdir()
    ignored = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__", "*.egg-info")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tree / name, ignore=ignored)
        else:
            shutil.copy(path, tree / name)
    return tree


def environment(folder: Path, *packages: str, pip: bool = False) -> tuple[Path, Path]:
    """A venv whose own site-packages holds links to installed packages: (python, site-packages)."""
    venv.create(folder, with_pip=pip, symlinks=True)
    python = folder / "bin/python"
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")[:-1])
    for top in set().union(*map(files_of, packages)):
        if not (purelib / top).exists():
            (purelib / top).symlink_to(SITE / top)
    return python, purelib


def files_of(package: str) -> set[str]:
    """Top-level names of a distribution in site-packages."""
    tops = {path.parts[0] for path in importlib.metadata.files(package) or []}
    return {top for top in tops if top not in ("..", "__pycache__") and (SITE / top).exists()}


def requirements(package: str) -> set[str]:
    """The distribution and everything it needs that is installed here."""
    found, waiting = set(), [package]
    while waiting:
        name = waiting.pop()
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need]
    return found


def clean_environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TAPOUT", "CMAKE"))}
    kept.pop("VIRTUAL_ENV", None)
    return {**kept, "TAPOUT_CUDA": "OFF", **variables}  # minutes of nvcc


BUILT = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
REUSING = f"""#!/bin/sh
for argument; do
  [ "$last" = -o ] && object=$argument
  last=$argument
done
case $object in
  */_host.dir/*|*/bind/verify.cpp.o) ;;
  */csrc/*) [ -f "{BUILT}/$object" ] && exec cp "{BUILT}/$object" "$object" ;;
esac
exec "$@" -O0
"""


def launcher(folder: Path, script: str) -> Path:
    """What CMake starts compilers through: the flags are the build's own, and then -O0, which takes
    a third of the time. Of the operators' objects all but one may be those of this checkout."""
    path = folder / "launcher.sh"
    path.write_text(script)
    path.chmod(0o755)
    return path


def build_info(package: Path) -> dict[str, dict[str, object]]:
    return json.loads((package / "_build_info.json").read_text())


@pytest.mark.parametrize(
    "script",
    [REUSING, pytest.param('#!/bin/sh\nexec "$@" -O0\n', marks=pytest.mark.slow)],
    ids=["reusing objects", "from nothing"],
)
def test_pip_install_in_an_isolated_build_beside_torch(source: Path, tmp_path: Path, script: str):
    """What a user types; torch is in the environment, and not importable during the build."""
    compiler()
    packages = requirements("torch") | {"numpy"}
    python, purelib = environment(tmp_path / "venv", *packages, pip=True)
    quick = clean_environment(CMAKE_CXX_COMPILER_LAUNCHER=str(launcher(tmp_path, script)))
    run(python, "-m", "pip", "install", "--no-deps", source, env=quick)
    package = purelib / "tapout_kernels"
    info = build_info(package)
    assert info["cpu"] == {"built": True, "reason": ""}
    assert info["host"] == {"built": True, "reason": ""}
    off = "switched off (TAPOUT_CUDA=OFF)"
    assert info["cuda"] == {"built": False, "reason": off}
    found = json.loads(run(python, "-c", REPORT, cwd=tmp_path, env=clean_environment()))
    assert Path(found["file"]).parent == package
    assert re.search(r"cpu +on \((scalar|avx2|avx512|avx512_bf16)\)", found["report"])
    assert [line.split() for line in found["report"].splitlines() if "cuda" in line.split()] == [
        ["cuda", "off:", *off.split()]
    ]
    assert found["top1"] == 0.125
    code = "import json; from tapout_kernels import _host; print(json.dumps(_host.build_info()))"
    host = json.loads(run(python, "-c", code, cwd=tmp_path, env=clean_environment()))
    assert host["version"] == importlib_version(python, tmp_path)
    assert host["instruction_sets"][0] == "scalar"
    assert "-ffp-contract=off" in host["cxx_flags"]
    assert "-ffast-math" not in host["cxx_flags"]
    assert str(purelib) in host["torch_headers"]
    assert all(host[key] for key in ("compiler", "cuda", "torch_target"))


def importlib_version(python: Path, cwd: Path) -> str:
    code = "import importlib.metadata as m; print(m.version('tapout-kernels'))"
    return run(python, "-c", code, cwd=cwd, env=clean_environment()).strip()


def build_beside(source: Path, python: Path, **variables: str) -> tuple[Path, str]:
    """Build the package with the tools of ``python``: (package folder, output)."""
    target = source / "out"
    command = ["setup.py", "build", "--build-base", target, "--build-lib", target / "lib"]
    output = run(python, *command, cwd=source, env=clean_environment(**variables))
    return target / "lib/tapout_kernels", output


def works_without_library(package: Path, reason: str) -> None:
    environment = clean_environment(PYTHONPATH=str(package.parent))
    found = json.loads(run(sys.executable, "-c", REPORT, cwd=package.parent, env=environment))
    assert Path(found["file"]).parent == package
    assert reason in found["report"]  # the user can see why
    assert found["top1"] == 0.125
    assert not list(package.glob("*.so"))


def test_without_a_compiler_the_package_is_pure_python_and_says_so(source: Path):
    package, output = build_beside(source, Path(sys.executable), CXX="/nowhere/c++")
    reason = "no C++ compiler was found (CXX=/nowhere/c++)"
    assert build_info(package)["cpu"] == {"built": False, "reason": reason}
    assert build_info(package)["host"] == {"built": False, "reason": reason}
    assert f"WARNING: cpu library not built: {reason}" in output
    works_without_library(package, reason)


def test_without_torch_the_package_is_pure_python_and_says_so(source: Path, tmp_path: Path):
    compiler()
    python, _ = environment(tmp_path / "venv", "setuptools", "cmake", "ninja")
    package, output = build_beside(source, python, PYTHONNOUSERSITE="1")
    reason = "torch was not found in the environment"
    assert build_info(package)["cpu"] == {"built": False, "reason": reason}
    assert build_info(package)["host"] == {"built": False, "reason": "pybind11 was not found"}
    assert f"WARNING: cpu library not built: {reason}" in output
    works_without_library(package, reason)


def test_without_cmake_the_package_is_pure_python_and_says_so(source: Path, tmp_path: Path):
    python, _ = environment(tmp_path / "venv", "setuptools")
    package, output = build_beside(source, python, PATH="/nowhere")
    assert "WARNING: cpu library not built: cmake and ninja were not found" in output
    works_without_library(package, "cmake and ninja were not found")


def configure(folder: Path, *defines: str, **variables: str) -> subprocess.CompletedProcess[str]:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake, ninja = (shutil.which(name, path=tools) for name in ("cmake", "ninja"))
    command = [cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    return subprocess.run(
        [*command, *defines], env=clean_environment(**variables), capture_output=True, text=True
    )


NO_NVCC = ("-DTAPOUT_CUDA_FOLDER=/nowhere", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF")


def test_cuda_can_be_switched_off_or_demanded(tmp_path: Path):
    off = configure(tmp_path / "off", "-DTAPOUT_CUDA=OFF", CXX="/nowhere/c++")
    assert off.returncode == 0, off.stderr
    assert "TAPOUT_CUDA=OFF" in build_info(tmp_path / "off")["cuda"]["reason"]
    nowhere = {"PATH": "/nowhere", "CXX": "/nowhere/c++"}
    auto = configure(tmp_path / "auto", *NO_NVCC, **nowhere)
    assert auto.returncode == 0, auto.stderr
    assert build_info(tmp_path / "auto")["cuda"]["reason"] == "nvcc was not found"
    demanded = configure(tmp_path / "on", "-DTAPOUT_CUDA=ON", *NO_NVCC, **nowhere)
    assert demanded.returncode != 0
    assert "nvcc was not found" in demanded.stderr


@pytest.mark.parametrize(
    ("version", "reason"),
    [("12.3", "nvcc >= 12.4 is needed, found 12.3"),
     ("12.9", "nvcc 12.9 does not compile here: #error -- unsupported GNU version!")],
)  # fmt: skip
def test_an_nvcc_that_is_of_no_use_is_the_reason(tmp_path: Path, version, reason):
    """It never breaks an installation."""
    compiler()
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && echo 'Cuda compilation tools, release {version}, V1'"
        " || { echo '#error -- unsupported GNU version!' >&2; exit 1; }\n"
    )
    nvcc.chmod(0o755)
    include = f"-DTAPOUT_TORCH_INCLUDE={SITE / 'torch/include'}"
    done = configure(tmp_path / "build", f"-DTAPOUT_NVCC={nvcc}", include)
    assert done.returncode == 0, done.stderr
    info = build_info(tmp_path / "build")
    assert info["cpu"]["built"]
    assert info["cuda"] == {"built": False, "reason": reason}


# ---- the op library's ABI ----------------------------------------------------------------------


def symbols(library: Path, *options: str) -> list[str]:
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm (binutils)")
    return [line.split()[-1] for line in run(nm, "-D", *options, library).splitlines()]


SHIM = re.compile(r"(aoti_torch|torch)_\w+")


def foreign(undefined: list[str]) -> list[str]:
    """Symbols that neither torch's stable shim has, nor the runtimes of C and C++."""
    runtime = re.compile(r"\w+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+")
    start_up = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}
    return [
        name for name in undefined
        if not SHIM.fullmatch(name) and not runtime.fullmatch(name) and name not in start_up
    ]  # fmt: skip


def declared_in_the_shim(*flags: str) -> set[str]:
    """By torch 2.10: not inside a later version's section of the headers."""
    include = SITE / "torch/include/torch/csrc"
    headers = [include / "inductor/aoti_torch/c/shim.h", include / "stable/c/shim.h"]
    flags = ("-E", "-P", "-x", "c++", "-std=c++17",
             "-DTORCH_TARGET_VERSION=0x020a000000000000", *flags)  # fmt: skip
    declared = "".join(
        run(compiler(), *flags, "-I", SITE / "torch/include", header) for header in headers
    )
    return set(re.findall(r"\b(?:aoti_torch|torch)_\w+(?=\()", declared))


def test_undefined_symbols_are_the_stable_shim_and_the_c_and_cpp_runtimes():
    """Nothing of at::, c10:: or Python: one library for every torch >= 2.10 and every Python."""
    undefined = symbols(LIBRARY, "--undefined-only")
    assert sum(bool(SHIM.fullmatch(name)) for name in undefined) > 10
    assert foreign(undefined) == []


def test_shim_symbols_existed_in_torch_2_10():
    undefined = symbols(LIBRARY, "--undefined-only")
    used = {name for name in undefined if re.match(r"(aoti_)?torch_", name)}
    assert used - declared_in_the_shim() == set()


def test_exports_what_python_calls_and_nothing_else():
    assert symbols(LIBRARY, "--defined-only") == [
        "tapout_cpu_error",
        "tapout_cpu_isa",
        "tapout_forget",
        "tapout_record",
        "tapout_recorded",
        "tapout_replay",
        "tapout_schema",
    ]


@pytest.mark.parametrize("op", ["verify", "bandit_update"])
def test_no_symbol_is_shared_between_instruction_sets(op: str, tmp_path: Path):
    """Unoptimised, every inline function is emitted: each must be this instruction set's own."""
    unit = tmp_path / "unit.o"
    flags = ["-O0", "-std=c++17", "-DTAPOUT_ISA=portable", "-c", ROOT / f"csrc/cpu/{op}.cpp"]
    run(compiler(), *flags, "-o", unit)
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm (binutils)")
    names = [line for line in run(nm, "-C", "--defined-only", unit).splitlines() if line]
    shared = [line for line in names if " r " not in line and "::portable::" not in line]
    assert len(names) > 5
    assert shared == []
