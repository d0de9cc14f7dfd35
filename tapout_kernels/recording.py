"""Calls of operators on a CPU, made again without Python: what CUDA graphs are on a GPU.

A round is a dozen small operators around two forwards. Each costs a few microseconds in a loop, and
several times as many after a forward has taken Python and torch out of the caches. Kernels that
work on the same memory every time need neither: they are called once more, one after the other.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import _library
from .backends import BackendUnavailable, default_backend, unavailable_reason


def recording_unavailable(
    device: torch.device | str = "cpu", backend: str | None = None
) -> str | None:
    """Why calls of ``backend`` on ``device`` cannot be recorded, or None if they can.

    Parameters
    ----------
    device : torch.device or str
    backend : {"reference", "cpu", "triton", "cuda"}, optional
        What the calls name; None: nothing.

    Returns
    -------
    str or None

    Examples
    --------
    >>> recording_unavailable(backend="reference")
    'only calls of backend cpu can be recorded, these are of reference'
    """
    reason = unavailable_reason("cpu", device)
    if reason is not None:
        return reason
    found = backend or default_backend("verify", device)
    if found != "cpu":
        return f"only calls of backend cpu can be recorded, these are of {found}"
    return None


class Recording:
    """What ``function`` calls of this package's operators, to be called again by :meth:`run`.

    As with a CUDA graph the memory is part of it: inputs are read from and results written to the
    tensors that the first calls were given, whatever is in them by then. Shapes, numbers and what
    Python decided are those of the first time. The tensors live as long as the recording.

    Parameters
    ----------
    function : callable
        Called once, without arguments. It may call operators of this package on their ``cpu``
        backend, make views and allocate; nothing else of torch, which would not be recorded.

    Raises
    ------
    BackendUnavailable
        Without the CPU library.
    RuntimeError
        If ``function`` computes with anything else, or records itself.

    Notes
    -----
    What the first call checked is not checked again: contents must stay what the operators take.
    A recording belongs to no thread; two may not run it at once.

    Examples
    --------
    >>> from tapout_kernels import sample, RngState
    >>> logits, rng = torch.tensor([[0.0, 9.0, 0.0]]), RngState.of(1)
    >>> token = torch.zeros(1, dtype=torch.int64)
    >>> if recording_unavailable() is None:
    ...     recording = Recording(lambda: sample(logits, None, rng, rule="greedy", out=token))
    ...     _ = logits.copy_(torch.tensor([[5.0, 0.0, 0.0]]))
    ...     recording.run()
    >>> token.tolist()
    [0]
    """

    def __init__(self, function: Callable[[], object]):
        reason = unavailable_reason("cpu")
        if reason is not None:
            raise BackendUnavailable(f"Recording: backend 'cpu' is off: {reason}")
        library = _functions()
        if not library.tapout_record():
            raise RuntimeError("Recording: function must not record, and did")
        self._keeper = _Keeper()
        try:
            with self._keeper:
                function()
        finally:
            self._calls = ctypes.c_void_p(library.tapout_recorded())
            weakref.finalize(self, library.tapout_forget, self._calls)
        self._replay = library.tapout_replay

    def run(self) -> None:
        """Make the calls again."""
        if not self._replay(self._calls):
            raise MemoryError("Recording.run: a kernel could not allocate what it needs")


class _Keeper(TorchDispatchMode):
    """Keeps the arguments of recorded operators; refuses what is not recorded."""

    def __init__(self):
        super().__init__()
        self.kept: list[object] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == _library.NAMESPACE and func._overloadname in ("default", "cpu"):
            self.kept.append((args, kwargs))
        elif not (func.is_view or "empty" in func.name()):
            raise RuntimeError(f"Recording: {func.name()} is no operator that can be recorded")
        return func(*args, **(kwargs or {}))


def _functions() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library.NATIVE_PATH))
    library.tapout_record.restype = library.tapout_replay.restype = ctypes.c_bool
    library.tapout_recorded.restype = ctypes.c_void_p
    return library
