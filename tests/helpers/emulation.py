"""The CUDA library compiled for the host: its kernels against the emulator of tests/emulation.

``installed`` puts it behind every ``.cuda`` overload for tensors of the host, so that any test that
takes a backend runs the kernels that ``nvcc`` compiles, thread by thread.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import ninja
import torch

from tapout_kernels import _library
from tapout_kernels._schema import DECODER_SCHEMAS

from . import device
from .core_probe import ROOT, compiler

EMULATION = Path("tests/emulation")
# Small blocks: the time goes by the number of threads. Contraction would differ from the chip's.
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-fno-strict-aliasing", "-fvisibility=hidden",
         "-DTAPOUT_EMULATED", "-DTAPOUT_BLOCK_THREADS=64", f"-I{EMULATION}")  # fmt: skip


def _relative(pattern: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in ROOT.glob(pattern))


RUNTIME = _relative(f"{EMULATION}/*.cpp")
KERNELS = _relative("csrc/cuda/*.cu")
NO_KERNEL = (*_library.NO_KERNEL["cuda"], *DECODER_SCHEMAS)
CPU_ONLY = {"cpu.cpp", "recording.cpp", "team.cpp", *(f"{op}.cpp" for op in NO_KERNEL)}


# What instruments kernels, and what tells the runtime, which is not, of the sanitizer.
SANITIZERS = {
    "": ("", ""),
    "address": ("-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all "
                "-fsanitize=address,undefined,float-cast-overflow", "-DEMULATOR_ASAN"),
    "thread": ("-O1 -g -fsanitize=thread", "-DEMULATOR_TSAN"),
}  # fmt: skip
SANITIZER = os.environ.get("TAPOUT_EMULATION_SANITIZER", "")  # of the library that tests load


def library() -> Path:
    """The library of all operators, compiled if it is not there already."""
    torch_folder = Path(sysconfig.get_path("purelib"), "torch")
    schema = hashlib.sha256((ROOT / "tapout_kernels/_schema.py").read_bytes()).hexdigest()
    flags = ("-isystem", str(torch_folder / "include"), f'-DTAPOUT_SCHEMA_HASH=\\"{schema}\\"')
    bind = [path for path in _relative("csrc/bind/*.cpp") if path.name not in CPU_ONLY]
    # The stable ABI comes from torch_cpu, which torch does not load for everyone to see.
    link = ("-shared", "-Wl,--no-as-needed", f"-L{torch_folder / 'lib'}", "-ltorch_cpu")
    name = "_".join(["cuda_emulated", *filter(None, [SANITIZER])]) + ".so"
    return compiled(name, [*KERNELS, *bind], flags, link, SANITIZER)


def compiled(
    name: str, sources: Sequence[Path], flags: Sequence[str] = (),
    link: Sequence[str] = ("-shared",), sanitizer: str = "",
) -> Path:  # fmt: skip
    """A library or program of sources (below the repository) and the emulator's runtime."""
    folder = ROOT / "build/emulation"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of this test run want it as well
        script = folder / f"{name}.ninja"
        script.write_text(_script(folder / name, sources, flags, link, *SANITIZERS[sanitizer]))
        command = [Path(ninja.BIN_DIR, "ninja"), "-f", script, "-j2", "--quiet"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / name


def _script(result: Path, sources: Sequence[Path], flags: Sequence[str], link: Sequence[str],
            instrumented: str, told: str) -> str:  # fmt: skip
    """Compiles in the repository's root, so that errors name files as one knows them."""
    folder = result.with_suffix(".o")
    command = " ".join([compiler(), *FLAGS, *flags])
    lines = [
        f"builddir = {folder}",
        f"rule compile\n  command = {command} $how -MD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {compiler()} {instrumented} $in {' '.join(link)} -o $out",
    ]
    objects = []
    for source in [*sources, *RUNTIME]:
        objects.append(f"{folder / source.parent.name}_{source.stem}.o")
        how = told if source in RUNTIME else instrumented
        lines.append(f"build {objects[-1]}: compile {source}\n  how = {how}")
    lines.append(f"build {result}: link {' '.join(objects)}\n")
    return "\n".join(lines)


def races(program: Path, *arguments: str) -> str:
    """What ThreadSanitizer says of a program that was compiled with it; empty if nothing."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    clean = done.returncode == 0 and not done.stderr
    return "" if clean else f"{done.stderr}\nexit status {done.returncode}"


class Emulator:
    """What the emulator inside a library can be asked and told."""

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path))
        self.library.emulator_error.restype = ctypes.c_char_p
        self.library.emulator_configure.argtypes = [ctypes.c_uint64, ctypes.c_int]
        self.library.emulator_launches.restype = ctypes.c_int64
        self.library.emulator_switches.restype = ctypes.c_int64

    def configure(self, seed: int = 1, blocks_in_flight: int = 3) -> None:
        """The order of blocks and lanes, and how many blocks run at a time."""
        self.library.emulator_configure(seed, blocks_in_flight)

    def pretend(
        self, multiprocessors: int = 2, capturing: bool = bool(SANITIZER), garbage: int = 0xFF
    ) -> None:
        """What the device is taken for, and the byte in scratch memory before a launch.

        While a graph is captured a call has scratch memory of its own, of exactly its size.
        """
        self.library.emulator_pretend(multiprocessors, capturing, garbage)

    def error(self) -> str:
        """What went wrong in the last launch; empty if nothing did."""
        return self.library.emulator_error().decode()

    def launches(self) -> int:
        """Launches since the last time this was asked."""
        count = self.library.emulator_launches()
        self.library.emulator_reset_launches()
        return count

    def switches(self) -> int:
        """Switches from one thread to another in the last launch."""
        return self.library.emulator_switches()


@functools.cache
def installed() -> Emulator:
    """The emulator behind ``backend="cuda"``, which takes tensors of the host from now on."""
    path = library()
    torch.ops.load_library(path)
    _library.CUDA_DEVICES.add("cpu")
    device.EMULATED.add("cuda")
    emulator = Emulator(path)
    emulator.pretend()
    return emulator
