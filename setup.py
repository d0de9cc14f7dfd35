"""Drives CMakeLists.txt, the only build description, and puts what it built into the package."""

from __future__ import annotations

import importlib
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
    prefixes = [sys.prefix, os.environ.get("VIRTUAL_ENV"), sys.base_prefix]
    roots = [
        sysconfig.get_path(key, vars={"base": prefix, "platbase": prefix})
        for prefix in filter(None, prefixes)
        for key in ("purelib", "platlib")
    ]
    for root in [*roots, site.getusersitepackages()]:
        if (Path(root) / "torch/include/torch/csrc").is_dir():
            return str(Path(root) / "torch/include")
    return ""


def tool(module: str, folder: str) -> str | None:
    """A program of the build environment's package ``module``, else one on the PATH."""
    try:
        return str(Path(getattr(importlib.import_module(module), folder)) / module)
    except ImportError:
        return shutil.which(module)


def pybind11_dir() -> str:
    try:
        return importlib.import_module("pybind11").get_cmake_dir()
    except ImportError:
        return ""


class CMakeBuild(build_ext):
    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = (ROOT if in_place else Path(self.build_lib).resolve()) / "tapout_kernels"
        cmake, ninja = tool("cmake", "CMAKE_BIN_DIR"), tool("ninja", "BIN_DIR")
        if cmake and ninja:
            self.build_native(cmake, ninja, package)
        else:
            off = {"built": False, "reason": "cmake and ninja were not found"}
            package.mkdir(parents=True, exist_ok=True)
            record = json.dumps(dict.fromkeys(("cpu", "host", "cuda"), off))
            (package / "_build_info.json").write_text(record)
        for part, state in json.loads((package / "_build_info.json").read_text()).items():
            if not state["built"]:
                print(f"tapout_kernels: WARNING: {part} library not built: {state['reason']}")

    def build_native(self, cmake: str, ninja: str, package: Path) -> None:
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        options = {
            "CMAKE_MAKE_PROGRAM": ninja, "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11_dir(), "TAPOUT_TORCH_INCLUDE": torch_include(),
            "TAPOUT_CUDA": os.environ.get("TAPOUT_CUDA", "AUTO"),
        }  # fmt: skip
        defines = [f"-D{name}={value}" for name, value in options.items()]
        defines += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        subprocess.run([cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *defines], check=True)
        subprocess.run([cmake, "--build", build], check=True)
        subprocess.run([cmake, "--install", build, "--prefix", package], check=True)

    def get_outputs(self) -> list[str]:
        return []  # CMake installs; setuptools has nothing to copy

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    packages=find_packages(include=["tapout_kernels*"])
    + find_packages("python", include=["tapout_engine*"]),
    package_dir={"tapout_engine": "python/tapout_engine"},
    ext_modules=[Extension("tapout_kernels._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
