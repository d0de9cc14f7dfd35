"""Registration: schemas, fakes, and the reference as the kernel behind every device.

Each operator has a dispatching default plus one overload per backend
(``torch.ops.tapout_kernels.verify.reference``).  The native libraries' kernels, where they load,
stand behind the default of their devices, on a GPU else Triton's, where it is installed; whatever
they do not cover falls back to the reference, visibly (:func:`tapout_kernels.backend_report`).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Set
from pathlib import Path

import torch

from . import reference
from ._schema import DECODER_SCHEMAS, SCHEMAS

NAMESPACE = "tapout_kernels"
_PACKAGE = Path(__file__).parent
NATIVE_PATH = _PACKAGE / "_C.so"
CUDA_PATH = _PACKAGE / "_C_cuda.so"
TRITON_NAMES = ("triton", "triton-rocm", "pytorch-triton-rocm", "pytorch-triton")
MINIMUM_TRITON = (3, 6)

# Operators a backend has no kernel of: there they are refused by name, and the default of its
# devices is the reference.
NO_KERNEL: dict[str, frozenset[str]] = {
    "triton": frozenset(),
    "cuda": frozenset(
        {
            "tree_attention",
        }
    ),
}

_definitions = torch.library.Library(NAMESPACE, "DEF")


def _fake(*args, **kwargs) -> None:
    """Operators only mutate their arguments: there is no output to describe."""


def _triton_kernel(name: str) -> Callable[..., None]:
    """Triton is imported when one of its kernels first runs: it is slow to, and may be missing.

    It launches on the current device, so that of the tensors is made it.
    """

    def kernel(*args: object) -> None:
        from . import _triton

        with torch.cuda.device_of(next(x for x in args if isinstance(x, torch.Tensor))):
            _triton.OPS[name](*args)

    return torch.no_grad()(kernel)


def _define() -> None:
    for name, schema in SCHEMAS.items():
        for overload in ("", ".reference", ".cpu", ".triton", ".cuda"):
            _definitions.define(f"{name}{overload}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(f"{NAMESPACE}::{name}{overload}", _fake, lib=_definitions)
        for overload in ("", ".reference"):
            kernel = torch.no_grad()(reference.OPS[name])  # state must not carry a graph
            _definitions.impl(f"{name}{overload}", kernel, "CompositeExplicitAutograd")
        if name not in NO_KERNEL["triton"]:
            _definitions.impl(f"{name}.triton", _triton_kernel(name), "CompositeExplicitAutograd")
    for name, schema in DECODER_SCHEMAS.items():
        _definitions.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"{NAMESPACE}::{name}", _fake, lib=_definitions)


def _let_triton_stand_in(missing: Set[str]) -> None:
    """Triton's kernels behind the default of a GPU for what the CUDA library has none of."""
    for name in missing - NO_KERNEL["triton"]:
        _definitions.impl(name, _triton_kernel(name), "CUDA")


def _triton_unavailable() -> str | None:
    """Why Triton's kernels cannot run on any device, or None."""
    versions = [_version_of(name) for name in TRITON_NAMES]
    version = next((version for version in versions if version), None)
    if version is None:
        return "triton is not installed (pip install triton)"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < MINIMUM_TRITON:
        return f"it needs triton >= {'.'.join(map(str, MINIMUM_TRITON))}, found {version}"
    return None


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _build_info() -> dict[str, dict[str, object]]:
    """What the installer wrote down about each native library it built or left out."""
    try:
        return json.loads((_PACKAGE / "_build_info.json").read_text())
    except (OSError, ValueError):
        return {}


def _load_native() -> str | None:
    """Load the CPU library; the reason why not, or None."""
    return _load(NATIVE_PATH, "cpu", ISA_ERROR)


def _load_cuda() -> str | None:
    """Load the CUDA library; the reason why not, or None.  It needs a torch with CUDA."""
    return _load(CUDA_PATH, "cuda", "" if torch.version.cuda else "torch has no CUDA")


def _load(path: Path, part: str, obstacle: str) -> str | None:
    """Load a native library unless there is an obstacle; the reason why not, or None.

    A library built from another schema table would read its arguments wrongly: it is not loaded.
    """
    if not path.exists():
        reason = _build_info().get(part, {}).get("reason")
        return str(reason or "its library was not built (run `pip install .`)")
    if obstacle:
        return obstacle
    if not _fits(path):
        return f"{path.name} was built for another version: run `pip install .`"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} did not load: {error}"
    return None


def _fits(path: Path) -> bool:
    """Whether a library has the hash of this schema table in it: asking it would load it."""
    return _schema_hash().encode() in path.read_bytes()


def _schema_hash() -> str:
    return hashlib.sha256((_PACKAGE / "_schema.py").read_bytes()).hexdigest()


def checks(op: str, backend: str | None, device: str) -> bool:
    """Whether what a call runs on tensors of ``device`` is a native library."""
    if backend not in (None, device) or op in NO_KERNEL.get(device, ()):
        return False
    return (
        CPU_UNAVAILABLE if device == "cpu" else CUDA_UNAVAILABLE
    ) is None and device in LIBRARIES


def native_text(symbol: str) -> str:
    """What a parameterless C function of the CPU library says."""
    function = getattr(ctypes.CDLL(str(NATIVE_PATH)), symbol)
    function.restype = ctypes.c_char_p
    return function().decode()


def build_notes() -> list[str]:
    """What was left out of the build besides backends, one line each."""
    info = _build_info().get("host", {})
    if info.get("built", False):
        return []
    return [f"host library not built: {info.get('reason') or 'no build record'}"]


def _isa_error() -> str:
    """Why ``TAPOUT_CPU_ISA`` cannot be honoured; empty if it can, or is not set."""
    try:
        fits = NATIVE_PATH.exists() and _fits(NATIVE_PATH)
        return native_text("tapout_cpu_error") if fits else ""
    except OSError:  # said by _load_native
        return ""


TRITON_UNAVAILABLE: str | None = _triton_unavailable()
LIBRARIES = ("cpu", "cuda")  # backends of the name of their device
_YES = ("1", "true", "yes", "on", "y")  # as Triton itself reads the variable
TRITON_INTERPRETED: bool = os.environ.get("TRITON_INTERPRET", "").lower() in _YES
_define()
ISA_ERROR: str = _isa_error()
CPU_UNAVAILABLE: str | None = _load_native()
CUDA_UNAVAILABLE: str | None = _load_cuda()
CUDA_DEVICES: set[str] = {"cuda"}  # tests that emulate the library add "cpu"
if TRITON_UNAVAILABLE is None:
    _let_triton_stand_in(SCHEMAS.keys() if CUDA_UNAVAILABLE is not None else NO_KERNEL["cuda"])
