"""A GPU's kernels on tensors of the host: simulated, or on a GPU and back.

Where there is a GPU, ``install`` puts a kernel for tensors of the host behind every overload of a
backend: whole storages go to the device, so that strides, overlaps and what lies between rows are
what the kernel sees, and what the operator writes comes back.  So every test of a backend is the
same on either machine.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tapout_kernels import BackendUnavailable, _library
from tapout_kernels._schema import SCHEMAS
from tapout_kernels.reference.accept import LOSSY_RULES
from tapout_kernels.testing import Case

from . import public

INTERPRETED = _library.TRITON_INTERPRETED


EMULATED: set[str] = set()  # backends whose kernels are emulated here (helpers/emulation.py)


def few(backend: str, many: int, few: int, emulated: int | None = None) -> int:
    """How many of something: each costs milliseconds in Triton's interpreter.

    The emulator of CUDA's threads has time for as many as the CPU, unless it says otherwise.
    """
    if backend in EMULATED and emulated is not None:
        return emulated
    return few if INTERPRETED and backend == "triton" else many


def affordable(backend: str, case: Case, batch: int = 5) -> Case:
    """At most ``batch`` requests; five are enough for every value of every "mixed" column."""
    return case.with_(batch=few(backend, case.batch, min(case.batch, batch)))


def is_refused(backend: str, case: Case) -> bool:
    """Whether the backend has no kernel of the operator; then a call of it must say so."""
    none = case.op in _library.NO_KERNEL.get(backend, ())
    rules = {"tree_verify": ("block",), "verify": tuple(LOSSY_RULES)}.get(case.op, ())
    if not none and not (case.rule in rules and backend in _library.NO_KERNEL):
        return False
    with pytest.raises(BackendUnavailable, match=f"{case.op}: backend .* has no kernel of"):
        public.call(case.op, case.inputs(), backend)
    return True


def interpreted_if(condition: bool, *values: object):
    """Values of a parametrised test; slow where Triton is interpreted unless ``condition``."""
    return pytest.param(*values, marks=() if condition else pytest.mark.interpreted_slow)


class Moved:
    """Copies of tensors on a device; tensors that share memory go on sharing it."""

    def __init__(self, device: str):
        self.device = device
        self.storages: dict[int, tuple[Tensor, Tensor]] = {}  # bytes of the host, of the device

    def __call__(self, value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        layout = value.storage_offset(), value.shape, value.stride()
        storage = self._bytes(value)[1].untyped_storage()
        return torch.empty(0, dtype=value.dtype, device=self.device).set_(storage, *layout)

    def bring_back(self, value: Tensor) -> None:
        """The whole storage: a write beside the tensor is seen on the host as well."""
        host, there = self._bytes(value)
        host.copy_(there)

    def _bytes(self, value: Tensor) -> tuple[Tensor, Tensor]:
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.storages:
            host = torch.empty(0, dtype=torch.uint8).set_(storage)
            self.storages[storage.data_ptr()] = host, host.to(self.device, copy=True)
        return self.storages[storage.data_ptr()]


def there_and_back(device: str, op: str, run: Callable[..., None]) -> Callable[..., None]:
    """``run`` of an operator on copies of its arguments on ``device``."""
    schema = getattr(torch.ops.tapout_kernels, op).default._schema
    written = [index for index, a in enumerate(schema.arguments) if a.alias_info is not None]

    def kernel(*args: object) -> None:
        move = Moved(device)
        run(*map(move, args))
        for index in written:
            if args[index] is not None:
                move.bring_back(args[index])

    return torch.no_grad()(kernel)


_implementations = torch.library.Library("tapout_kernels", "IMPL")


def install(backend: str, device: str) -> None:
    """Let the overloads of a backend, and ``backend=`` its name, take tensors of the host."""
    if backend == "cuda" and _library.CUDA_UNAVAILABLE is not None:
        raise RuntimeError(f"backend 'cuda' must run here but is off: {_library.CUDA_UNAVAILABLE}")
    for op in SCHEMAS.keys() - _library.NO_KERNEL[backend]:
        overload = getattr(getattr(torch.ops.tapout_kernels, op), backend)
        _implementations.impl(f"{op}.{backend}", there_and_back(device, op, overload), "CPU")
    if backend == "triton":  # what backends.py asks before it takes such tensors
        _library.TRITON_INTERPRETED = True
    else:
        _library.CUDA_DEVICES.add("cpu")
