"""Which backend runs an operator, and why another one cannot.

``TAPOUT_BACKEND``, read when the package is imported, names the default of every call;
``TAPOUT_CPU_ISA`` the instruction set of the cpu backend.
"""

from __future__ import annotations

import os
import platform

import torch

from . import _check, _library
from ._schema import SCHEMAS

BACKENDS = ("reference", "cpu", "triton", "cuda")
_DEFAULT = os.environ.get("TAPOUT_BACKEND") or None


class BackendUnavailable(RuntimeError):
    """The requested backend cannot run this operator here; the message says why."""


class NotYetSupported(RuntimeError):
    """An argument of the public interface that this version does not implement yet."""


def unavailable_reason(
    backend: str, device: torch.device | str = "cpu", op: str | None = None
) -> str | None:
    """Why ``backend`` cannot run on ``device``, or cannot run ``op`` there; None if it can."""
    if op in _library.NO_KERNEL.get(backend, ()):
        return f"it has no kernel of {op} yet"
    if backend == "reference":
        return None
    if backend == "cpu":
        if torch.device(device).type != "cpu":
            return f"it runs on cpu tensors, these are on {device}"
        return _library.CPU_UNAVAILABLE
    if backend == "triton":
        return _triton_unavailable(torch.device(device))
    if backend == "cuda":
        return _cuda_unavailable(torch.device(device))
    return f"no such backend, choose from {', '.join(BACKENDS)}"


def _triton_unavailable(device: torch.device) -> str | None:
    if _library.TRITON_UNAVAILABLE is not None:
        return _library.TRITON_UNAVAILABLE
    if device.type == "cuda" or (device.type == "cpu" and _library.TRITON_INTERPRETED):
        return None
    return f"it runs on GPU tensors, these are on {device} (TRITON_INTERPRET=1 interprets it there)"


def _cuda_unavailable(device: torch.device) -> str | None:
    emulated = device.type == "cpu" and "cpu" in _library.CUDA_DEVICES
    if _library.CUDA_UNAVAILABLE is not None and not emulated:
        return _library.CUDA_UNAVAILABLE
    if device.type in _library.CUDA_DEVICES:
        return None
    return f"it runs on cuda tensors, these are on {device}"


def available_backends(op: str, device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Backends that can run ``op`` on ``device``, slowest first.

    Parameters
    ----------
    op : str
        Name of an operator, such as ``"verify"``.
    device : torch.device or str

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If there is no such operator.

    Examples
    --------
    >>> "reference" in available_backends("verify", "cpu")
    True
    """
    if op not in SCHEMAS:
        raise ValueError(f"available_backends: op must be one of {sorted(SCHEMAS)}, got {op!r}")
    names = [name for name in BACKENDS if unavailable_reason(name, device, op) is None]
    if torch.device(device).type == "cpu":  # what is made for a GPU is interpreted or emulated
        names.sort(key=lambda name: name not in ("triton", "cuda"))
    return tuple(names)


def default_backend(op: str, device: torch.device | str = "cpu") -> str:
    """What a call without ``backend`` runs: ``TAPOUT_BACKEND``, else the fastest."""
    return _DEFAULT or available_backends(op, device)[-1]


def call(op: str, backend: str | None, **arguments: object) -> None:
    """Check the arguments, then run ``op`` on ``backend`` (None: ``TAPOUT_BACKEND``, else best).

    The native libraries check whatever they are given before they write anything. They are called
    at once, and the check here, which costs more than many an operator, is for what they refuse.
    """
    backend = backend or _DEFAULT
    packet = getattr(torch.ops.tapout_kernels, op)
    if _checked_by_library(op, backend, arguments):
        try:
            getattr(packet, backend or "default")(**arguments)
        except RuntimeError:
            _check.check(op, arguments)
            raise
        return
    device = _check.check(op, arguments)
    if backend is None:
        if _library.ISA_ERROR:  # an instruction set was asked for by name: no silent substitute
            raise BackendUnavailable(f"{op}: {_library.ISA_ERROR}")
        packet.default(**arguments)
        return
    reason = unavailable_reason(backend, device, op)
    if reason is not None:
        can = ", ".join(available_backends(op, device))
        raise BackendUnavailable(f"{op}: backend {backend!r} is off: {reason}; available: {can}")
    getattr(packet, backend)(**arguments)


def without_gpu(op: str, part: str, backend: str | None, device: torch.device) -> str | None:
    """The backend of a call that asks for a part of ``op`` which no kernel for GPUs has.

    Of tensors on a GPU it is the reference, unless another is named, which is refused.
    """
    backend = backend or _DEFAULT
    if backend in _library.NO_KERNEL:
        raise BackendUnavailable(
            f"{op}: backend {backend!r} is off: it has no kernel of {part} yet; available: "
            f"{', '.join(name for name in available_backends(op, device) if name != backend)}"
        )
    return backend or (None if device.type == "cpu" else "reference")


def _checked_by_library(op: str, backend: str | None, arguments: dict[str, object]) -> bool:
    """Whether this call goes to a native library: plain tensors, none empty, all on its device."""
    if torch.compiler.is_compiling():
        return False
    device = None
    for value in arguments.values():
        if not isinstance(value, torch.Tensor):
            continue
        if type(value) is not torch.Tensor or value.layout is not torch.strided:
            return False
        if value.numel() == 0 or device not in (None, value.device):
            return False
        device = value.device
    return device is not None and _library.checks(op, backend, device.type)


def cpu_isa() -> str | None:
    """Instruction set that the cpu backend runs on; ``TAPOUT_CPU_ISA`` forces one.

    Returns
    -------
    str or None
        ``"scalar"``, ``"avx2"``, ``"avx512"``, .. ; None where the backend is off.

    Examples
    --------
    >>> cpu_isa() is None or isinstance(cpu_isa(), str)
    True
    """
    if _library.CPU_UNAVAILABLE is not None:
        return None
    return _library.native_text("tapout_cpu_isa")


def backend_report() -> str:
    """One line per backend: on or off, and why.

    Returns
    -------
    str
        Human-readable, several lines; the first names the versions involved.

    Examples
    --------
    >>> "reference" in backend_report()
    True
    """
    lines = [
        f"tapout_kernels on torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads"
    ]
    for name in BACKENDS:
        on_gpu = name in ("triton", "cuda") and torch.cuda.is_available()
        reason = unavailable_reason(name, "cuda" if on_gpu else "cpu")
        state = "on" if reason is None else f"off: {reason}"
        if name == "cpu" and reason is None:
            state += f" ({cpu_isa()})"
        if reason is None and name in _library.NO_KERNEL:
            state += f", without {', '.join(sorted(_library.NO_KERNEL[name]))}"
        lines.append(f"  {name:<10} {state}")
    lines += [f"  {line}" for line in _library.build_notes()]
    if _DEFAULT:
        lines.append(f"  TAPOUT_BACKEND={_DEFAULT} is the default for every call")
    return "\n".join(lines)
