"""Copies of Triton's kernels with some lines replaced, interpreted under a name of their own.

``Kernels.running`` puts the copy's operators where the ``triton`` overloads look for theirs, so
that any test that takes a backend can be a killer.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from tapout_kernels import _triton
from tapout_kernels._triton import launch

from .mutants import Edit, replaced

SOURCE = Path(_triton.__file__).parent
LAUNCH = "from tapout_kernels._triton.launch import *\n"  # one plan and one workspace for all
_ROOT = tempfile.TemporaryDirectory(prefix="triton_copies_")
_NUMBER = itertools.count()


class Kernels:
    """A private copy of ``tapout_kernels._triton``."""

    def __init__(self, *edits: Edit):
        self.package = f"triton_copy_{next(_NUMBER)}"
        files = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
        assert {edit.file for edit in edits} <= files
        for file in files:
            text = LAUNCH if file == "launch.py" else (SOURCE / file).read_text()
            for edit in edits:
                if edit.file == file:
                    text = replaced(text, edit)
            target = Path(_ROOT.name) / self.package / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        if _ROOT.name not in sys.path:
            sys.path.insert(0, _ROOT.name)
        self.ops = importlib.import_module(self.package).OPS

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{name}")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The copy is the triton backend."""
        with patch.dict(_triton.OPS, self.ops):
            try:
                yield
            finally:
                launch._arenas.clear()  # a mutant may leave its tickets anyhow
