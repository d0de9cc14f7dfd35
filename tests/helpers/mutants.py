"""Copies of the reference package, some with one line replaced.

A mutant is a deliberately wrong reference: ``Edit`` names a file, the line that must be there and
what takes its place.  If the line is gone the copy refuses to be made, so a mutant cannot quietly
stop mutating.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import tapout_kernels.reference

SOURCE = Path(tapout_kernels.reference.__file__).parent
_ROOT = tempfile.TemporaryDirectory(prefix="reference_copies_")
_NUMBER = itertools.count()


class Edit(NamedTuple):
    file: str
    line: str  # exactly once in the file
    becomes: str


class Reference:
    """A private copy of ``tapout_kernels.reference``, free to be patched."""

    def __init__(self, *edits: Edit):
        self.package = f"reference_copy_{next(_NUMBER)}"
        folder = Path(_ROOT.name) / self.package
        folder.mkdir()
        for path in SOURCE.glob("*.py"):
            text = path.read_text()
            for edit in edits:
                if edit.file == path.name:
                    text = replaced(text, edit)
            (folder / path.name).write_text(text)
        if _ROOT.name not in sys.path:
            sys.path.insert(0, _ROOT.name)
        self.ops: dict[str, Callable[..., None]] = importlib.import_module(self.package).OPS

    def module(self, name: str) -> ModuleType:
        return sys.modules[f"{self.package}.{name}"]

    def set_uniform(self, uniform: Callable) -> None:
        """Replace the noise of every operator: uniforms become data."""
        readers = ("draft_step", "decide", "sample", "tree_expand", "tree_traverse", "tree_verify")
        for name in readers:
            self.module(name).uniform = uniform

    def set_chunk(self, size: int) -> None:
        """Chunks of ``size`` ids, so that a vocabulary of five crosses them."""
        self.module("sampling").CHUNK = size


def replaced(text: str, edit: Edit) -> str:
    found = text.count(edit.line)
    if found != 1:
        raise AssertionError(f"{edit.file}: expected {edit.line!r} once, found it {found} times")
    return text.replace(edit.line, edit.becomes)
