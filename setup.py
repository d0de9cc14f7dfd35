"""Drives CMakeLists.txt, the only build description, and puts what it built into the package."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def torch_include() -> str:
    """torch's headers, by path: in an isolated build torch cannot be imported, yet it is there."""
    prefixes = filter(None, [sys.prefix, os.environ.get("VIRTUAL_ENV"), sys.base_prefix])
    bases = [{"base": prefix, "platbase": prefix} for prefix in prefixes]
    roots = [sysconfig.get_path(key, vars=b) for b in bases for key in ("purelib", "platlib")]
    for root in [*roots, site.getusersitepackages()]:
        if Path(root, "torch/include/torch/csrc").is_dir():
            return str(Path(root, "torch/include"))
    return ""


def program(name: str, folder: str) -> str | None:
    """A program of the build environment's package ``name``, else one on the PATH."""
    try:
        return str(Path(getattr(importlib.import_module(name), folder), name))
    except ImportError:
        return shutil.which(name)


class CMakeBuild(build_ext):
    def run(self) -> None:
        root = ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()
        record = root / "tapout_kernels/_build_info.json"
        cmake, ninja = program("cmake", "CMAKE_BIN_DIR"), program("ninja", "BIN_DIR")
        if cmake and ninja:
            self.build_native(cmake, ninja, record.parent)
        else:
            off = {"built": False, "reason": "cmake and ninja were not found"}
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(dict.fromkeys(("cpu", "host", "cuda"), off)))
        for part, state in json.loads(record.read_text()).items():
            if not state["built"]:
                print(f"tapout_kernels: WARNING: {part} library not built: {state['reason']}")

    def build_native(self, cmake: str, ninja: str, package: Path) -> None:
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        spec = importlib.util.find_spec("pybind11")
        pybind11 = Path(spec.origin).parent / "share/cmake/pybind11" if spec else ""
        defines = [
            f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11}", f"-DTAPOUT_TORCH_INCLUDE={torch_include()}",
            f"-DTAPOUT_CUDA={os.environ.get('TAPOUT_CUDA', 'AUTO')}",
            f"-DTAPOUT_CUDA_ARCHITECTURES={os.environ.get('TAPOUT_CUDA_ARCHITECTURES', '')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.run([cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *defines], check=True)
        subprocess.run([cmake, "--build", build], check=True)
        subprocess.run([cmake, "--install", build, "--prefix", package], check=True)


setup(
    packages=find_packages(include=["tapout_kernels*"])
    + find_packages("python", include=["tapout_engine*"]),
    package_dir={"tapout_engine": "python/tapout_engine"},
    ext_modules=[Extension("tapout_kernels._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
