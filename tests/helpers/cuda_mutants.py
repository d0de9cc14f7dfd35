"""One emulated CUDA library in which each mutant is chosen at run time (``native_mutants``).

The copy of ``csrc`` and its library stay in ``build/emulation``: what has not changed is not
compiled again.
"""

from __future__ import annotations

import contextlib
import ctypes
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from tapout_kernels._schema import SCHEMAS

from . import emulation
from .core_probe import ROOT
from .mutants import Edit
from .native_mutants import HEADER, REGISTRATION, chosen

NAMESPACE = "tapout_cuda_mutants"
FOLDER = Path("build/emulation/mutants")


class CudaMutants:
    """The compiled copy; mutant N of ``mutants`` (lists of edits) is number N + 1."""

    def __init__(self, mutants: Sequence[Sequence[Edit]]):
        edits = [(n, edit) for n, mutant in enumerate(mutants, 1) for edit in mutant]
        path = _compiled(copied(edits, FOLDER))
        self.emulator = emulation.Emulator(path)
        self._number = ctypes.c_int.in_dll(self.emulator.library, "tapout_mutant")
        self._definitions = torch.library.Library(NAMESPACE, "DEF")
        for name, schema in SCHEMAS.items():
            self._definitions.define(f"{name}.cuda{schema}")
        torch.ops.load_library(path)

    @contextlib.contextmanager
    def running(self, number: int) -> Iterator[None]:
        """Mutant ``number`` is the cuda backend; 0 is the source as it is."""
        shipped = torch.ops.tapout_kernels
        torch.ops.tapout_kernels = _Operators(shipped)
        self._number.value = number
        try:
            yield
        finally:
            self._number.value = 0
            torch.ops.tapout_kernels = shipped
            self.emulator.configure()
            self.emulator.pretend()


class _Operators:
    """Stands for ``torch.ops.tapout_kernels``: the mutants for cuda, the rest as it is."""

    def __init__(self, shipped: object):
        self._shipped = shipped

    def __getattr__(self, name: str) -> SimpleNamespace:
        packet = getattr(self._shipped, name)
        mutant = getattr(torch.ops.tapout_cuda_mutants, name).cuda
        return SimpleNamespace(default=packet.default, reference=packet.reference, cuda=mutant)


def copied(edits: Sequence[tuple[int, Edit]], folder: Path) -> list[Path]:
    """Writes the copy to the folder; its source files, relative to the repository like that."""
    sources = []
    for path in sorted((ROOT / "csrc").rglob("*")):
        file = path.relative_to(ROOT / "csrc")
        if path.is_dir() or file.parts[0] not in ("core", "cuda", "bind"):
            continue
        own = [edit for edit in edits if edit[1].file == str(file)]
        text = chosen(path.read_text(), str(file), own) if own else path.read_text()
        text = text.replace(REGISTRATION, REGISTRATION.replace("tapout_kernels", NAMESPACE))
        _write(ROOT / folder / "csrc" / file, text)
        if path.suffix in (".cu", ".cpp") and path.name not in emulation.CPU_ONLY:
            sources.append(folder / "csrc" / file)
    _write(ROOT / folder / "mutant.h", HEADER)
    _write(ROOT / folder / "mutant.cpp", "int tapout_mutant = 0;\n")
    return [*sources, folder / "mutant.cpp"]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _compiled(sources: Sequence[Path]) -> Path:
    torch_folder = Path(sysconfig.get_path("purelib"), "torch")
    flags = ("-O1", "-include", str(FOLDER / "mutant.h"), "-isystem",
             str(torch_folder / "include"), '-DTAPOUT_SCHEMA_HASH=\\"mutants\\"')  # fmt: skip
    link = ("-shared", "-Wl,--no-as-needed", f"-L{torch_folder / 'lib'}", "-ltorch_cpu")
    return emulation.compiled("cuda_mutants.so", sources, flags, link)
