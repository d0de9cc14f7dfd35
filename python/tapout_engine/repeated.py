"""What is computed in every round, without Python between its kernels from the second time on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy
import torch
from torch import Tensor

from tapout_kernels.recording import Recording, recording_unavailable


class Repeated:
    """Functions by their keys, each called once; after that what they called is called again.

    A key must say everything that a function would decide anew, and the memory it is given must be
    that of the first time: see :class:`tapout_kernels.recording.Recording`.

    Parameters
    ----------
    device : torch.device or str
        Of the tensors.
    backend : str, optional
        Of the calls. Where they cannot be recorded, every call is one of the function.
    """

    def __init__(self, device: torch.device | str, backend: str | None = None):
        self.device = device
        self.enabled = recording_unavailable(device, backend) is None
        self._of: dict[Hashable, Recording] = {}
        self._inputs: dict[str, Tensor] = {}
        self._arrays: dict[str, numpy.ndarray] = {}  # the same memory

    def __call__(self, key: Hashable | None, function: Callable[[], object]) -> None:
        """``key`` is None where the memory may be another one the next time."""
        if key is None or not self.enabled:
            function()
        elif key in self._of:
            self._of[key].run()
        else:
            self._of[key] = Recording(function)

    def tensor(self, name: str, values: Sequence[int], dtype: torch.dtype) -> Tensor:
        """``values`` as a tensor in memory of that name, equally many each time."""
        if not self.enabled:
            return torch.tensor(values, dtype=dtype, device=self.device)
        if name not in self._inputs:
            own = torch.empty(len(values), dtype=dtype)
            self._inputs[name], self._arrays[name] = own, own.numpy()
        self._arrays[name][:] = values
        return self._inputs[name]

    def kept(self, name: str, value: Tensor | None) -> Tensor | None:
        """``value`` in memory of that name, of one shape each time; itself if it is kept already.

        A function that reads it has the memory's address in its key.
        """
        if not self.enabled or value is None or any(value is own for own in self._inputs.values()):
            return value
        if name not in self._inputs:
            self._inputs[name] = torch.empty_like(value)
        return self._inputs[name].copy_(value)

    def forget(self) -> None:
        """Memory has moved."""
        self._of.clear()
