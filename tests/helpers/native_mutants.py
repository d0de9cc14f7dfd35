"""One library of operators in which each mutant is chosen at run time.

A copy of ``csrc`` has every mutated line replaced by ``tapout_mutant == N ? wrong : right`` (a line
that ends with a semicolon: by an ``if`` block) and its operators registered in a namespace of their
own.  It is compiled once; mutant 0 is the source as it is.  ``NativeMutants.running`` puts the
copy's operators where the suite looks for the ``cpu`` backend, so that any test that takes a
backend can be a killer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import torch

from tapout_kernels._schema import DECODER_SCHEMAS, SCHEMAS

from .core_probe import F64, ROOT, U32, compiler
from .mutants import Edit

NAMESPACE = "tapout_mutants"
REGISTRATION = "STABLE_TORCH_LIBRARY_IMPL(tapout_kernels,"
# Scalar code is enough: the instruction sets agree to the bit (tests/test_isa.py).
FLAGS = ("-O1", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-fvisibility=hidden", "-fvisibility-inlines-hidden",
         "-DTAPOUT_ISA=scalar", '-DTAPOUT_SCHEMA_HASH="mutants"')  # fmt: skip
HEADER = (
    '#define EXPORT __attribute__((visibility("default")))\nextern "C" EXPORT int tapout_mutant;\n'
)
# The choice itself, and what no operator lets a test reach: a coin of 0.
SOURCE = """
#include "core/accept.h"
#include "core/rng.h"

int tapout_mutant = 0;

extern "C" EXPORT double uniform_from_words(uint32_t word0, uint32_t word1) {
  return tapout::uniform_from_words(word0, word1);
}

extern "C" EXPORT bool accepts(double uniform, double p_target, double p_draft) {
  return tapout::accepts(uniform, p_target, p_draft);
}
"""


def chosen(text: str, file: str, edits: Sequence[tuple[int, Edit]]) -> str:
    """``text`` with every edited line turned into a choice; each must be there exactly once."""
    lines = {line: _choice(line, edits) for line in dict.fromkeys(edit.line for _, edit in edits)}
    found = {line: text.count(line) for line in lines}
    wrong = [f"expected {line!r} once, found it {n} times" for line, n in found.items() if n != 1]
    if wrong:
        raise AssertionError(f"{file}: {'; '.join(wrong)}")
    pattern = "|".join(re.escape(line) for line in sorted(lines, key=len, reverse=True))
    return re.sub(pattern, lambda match: lines[match[0]], text)


def _choice(line: str, edits: Sequence[tuple[int, Edit]]) -> str:
    wrong = [(number, edit.becomes) for number, edit in edits if edit.line == line]
    if line.rstrip().endswith(";"):
        blocks = "".join(f"if (tapout_mutant == {n}) {{ {text} }} else " for n, text in wrong)
        return f"{blocks}{{ {line} }}"
    return "(" + "".join(f"tapout_mutant == {n} ? ({text}) : " for n, text in wrong) + f"({line}))"


class NativeMutants:
    """The compiled copy; mutant N of ``mutants`` (lists of edits) is number N + 1."""

    def __init__(self, mutants: Sequence[Sequence[Edit]], folder: Path):
        edits = [(n, edit) for n, mutant in enumerate(mutants, 1) for edit in mutant]
        path = _compile(_copy(edits, folder), folder)
        self.core = ctypes.CDLL(str(path))
        self.core.uniform_from_words.restype, self.core.accepts.restype = F64, ctypes.c_bool
        self.core.uniform_from_words.argtypes, self.core.accepts.argtypes = [U32, U32], [F64] * 3
        self._number = ctypes.c_int.in_dll(self.core, "tapout_mutant")
        self._definitions = torch.library.Library(NAMESPACE, "DEF")
        for name, schema in SCHEMAS.items():
            for overload in ("", ".cpu"):
                self._definitions.define(f"{name}{overload}{schema}")
        for name, schema in DECODER_SCHEMAS.items():
            self._definitions.define(name + schema)
        torch.ops.load_library(path)

    @contextlib.contextmanager
    def running(self, number: int) -> Iterator[None]:
        """Mutant ``number`` is the cpu backend; 0 is the source as it is."""
        shipped = torch.ops.tapout_kernels
        torch.ops.tapout_kernels = _Operators(shipped)
        self._number.value = number
        try:
            yield
        finally:
            self._number.value = 0
            torch.ops.tapout_kernels = shipped


class _Operators:
    """Stands for ``torch.ops.tapout_kernels``: the mutants for cpu, the reference as it is."""

    def __init__(self, shipped: object):
        self._shipped = shipped

    def __getattr__(self, name: str) -> SimpleNamespace:
        packet = getattr(torch.ops.tapout_mutants, name)
        if name in DECODER_SCHEMAS:
            return SimpleNamespace(default=packet.default)
        reference = getattr(self._shipped, name).reference
        return SimpleNamespace(default=packet.default, cpu=packet.cpu, reference=reference)


def _copy(edits: Sequence[tuple[int, Edit]], folder: Path) -> list[Path]:
    """Writes the copy; its source files."""
    for layer in ("core", "cpu", "bind"):
        shutil.copytree(ROOT / "csrc" / layer, folder / "csrc" / layer)
    for file in {edit.file for _, edit in edits}:
        path = folder / "csrc" / file
        path.write_text(chosen(path.read_text(), file, [e for e in edits if e[1].file == file]))
    registration = folder / "csrc/bind/backend.h"
    text = registration.read_text()
    assert text.count(REGISTRATION) == 4, f"{REGISTRATION} must be there for each kind of library"
    registration.write_text(text.replace("_IMPL(tapout_kernels,", f"_IMPL({NAMESPACE},"))
    (folder / "csrc/bind/cuda.cpp").unlink()
    (folder / "mutant.h").write_text(HEADER)
    (folder / "csrc/mutant.cpp").write_text(SOURCE)
    return sorted((folder / "csrc").rglob("*.cpp"))


def _compile(sources: Sequence[Path], folder: Path) -> Path:
    torch_folder = Path(sysconfig.get_path("purelib"), "torch")
    command = [compiler(), *FLAGS, "-include", folder / "mutant.h",
               "-isystem", torch_folder / "include"]  # fmt: skip

    def compiled(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        subprocess.run([*command, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "mutants.so"
    # The stable ABI comes from torch_cpu, which torch does not load for everyone to see.
    link = ["-shared", "-Wl,--no-as-needed", f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    subprocess.run([compiler(), *objects, *link, "-o", library], check=True)
    return library
