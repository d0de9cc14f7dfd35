"""Mutants of compiled or interpreted kernels, and the tests of the suite that must kill them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from .mutants import Edit


class Killer:
    """A test of the suite and the parameters it is called with; fixtures come from the mutant."""

    def __init__(self, test: Callable[..., None], **parameters: object):
        self.test, self.parameters = test, parameters
        shown = "-".join(getattr(value, "name", str(value)) for value in parameters.values())
        self.name = f"{test.__module__}.py::{test.__name__}" + (f"[{shown}]" if shown else "")

    def run(self, backend: str, **fixtures: object) -> None:
        """The test on a backend, with those of the fixtures that it asks for."""
        fixtures |= {"backend": backend, "compiled": backend, "trees": backend}
        wanted = inspect.signature(self.test).parameters
        own = {name: value for name, value in fixtures.items() if name in wanted}
        self.test(**own, **self.parameters)


class Mutant(NamedTuple):
    edits: tuple[Edit, ...]
    killer: Killer
