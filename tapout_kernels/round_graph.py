"""A whole round of speculative decoding as one CUDA graph, which decides its own length.

torch captures the parts of a round; the host library puts them into one graph with a WHILE node
around the draft step and an IF node around each verify forward. A launch runs a round, however
many tokens it drafts, and the host asks nothing.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.cuda import CUDAGraph, Stream

from . import _library
from ._check import require_tensor
from .backends import BackendUnavailable

try:
    from . import _host
except ImportError as error:
    _host, _UNAVAILABLE = None, str(error)

_DRIVER = "libcuda.so.1"


def round_graphs_unavailable() -> str | None:
    """Why rounds cannot be one CUDA graph here, or None if they can.

    Returns
    -------
    str or None
        None where the host and the CUDA library load and the driver is of CUDA 12.4 or newer: its
        conditional nodes are what such a graph is made of.

    Examples
    --------
    >>> reason = round_graphs_unavailable()
    >>> reason is None or isinstance(reason, str)
    True
    """
    if _host is None:
        return f"the host library was not built: {_UNAVAILABLE}"
    if _library.CUDA_UNAVAILABLE is not None:
        return f"the CUDA library is off: {_library.CUDA_UNAVAILABLE}"
    return _host.graph_loop_problem(_DRIVER) or None


class RoundGraph:
    """One round as one CUDA graph: one launch, no answer awaited.

    ``before``, then ``body`` as often as requests draft, then the first forward of ``verify`` that
    is wide enough, then ``after``::

        before -> steps = 0
        while num_active > 0 and steps < slots: body -> steps += 1
        the first width >= steps: verify[width]
        after

    Parameters
    ----------
    before, body, after : torch.cuda.CUDAGraph
        Made with ``keep_graph=True`` and captured, on the device of the tensors.
    verify : mapping of int to torch.cuda.CUDAGraph
        At most 16 forwards by the number of drafts they can verify, ascending, the last ``slots``.
    num_active : Tensor
        [1] int32: requests that still draft, as ``Proposal`` has it. ``before`` and ``body`` write
        it.
    steps : Tensor
        [1] int32, written: how often ``body`` has run. ``verify`` and ``after`` may read it.
    slots : int
        K, at least 1: ``body`` runs no more often.

    Raises
    ------
    BackendUnavailable
        Where :func:`round_graphs_unavailable` has a reason.
    TypeError, ValueError
        For an argument that is something else; a part that was not captured or holds a node that
        CUDA does not allow there (``body`` and ``verify``: other than kernels, copies and memsets).
    RuntimeError
        For what the driver refuses, with the name of its call. Nothing is left behind.

    Notes
    -----
    The captured graphs are copied. They, whose memory the copy uses, and the tensors are kept until
    :meth:`close`. What torch does besides when it replays a graph is left out: draws from its own
    generators, if a part has any, would repeat.

    Examples
    --------
    Two verify forwards, so that short drafts do not pay for the long one::

        graph = RoundGraph(
            before, body, {1: short, 4: long}, after,
            num_active=proposal.num_active, steps=steps, slots=4,
        )
        for _ in range(rounds):
            graph.launch()
        graph.close()
    """

    def __init__(
        self,
        before: CUDAGraph,
        body: CUDAGraph,
        verify: Mapping[int, CUDAGraph],
        after: CUDAGraph,
        *,
        num_active: Tensor,
        steps: Tensor,
        slots: int,
    ):
        reason = round_graphs_unavailable()
        if reason is not None:
            raise BackendUnavailable(f"RoundGraph: {reason}")
        self._device = _device_of(num_active=num_active, steps=steps)
        _require_widths(verify, slots)
        parts = {"before": before, "body": body, "after": after}
        raw = {name: _raw(name, graph) for name, graph in parts.items()}
        forwards = [(width, _raw(f"verify[{width}]", verify[width])) for width in verify]
        with torch.cuda.device(self._device):
            loop = _host.GraphLoop(
                _DRIVER, raw["before"], raw["body"], forwards, raw["after"],
                _kernels(self._device.index or 0), num_active.data_ptr(), steps.data_ptr(), slots,
            )  # fmt: skip
        self._loop = loop
        self._kept = (*parts.values(), *verify.values(), num_active, steps)
        self._finalizer = weakref.finalize(self, loop.close)  # before what is kept goes

    def launch(self, stream: Stream | None = None) -> None:
        """Queue one round, and wait for nothing.

        Parameters
        ----------
        stream : torch.cuda.Stream, optional
            None: the current one of the device.

        Raises
        ------
        RuntimeError
            After :meth:`close`, or if the driver refuses.
        """
        if stream is None:
            stream = torch.cuda.current_stream(self._device)
        elif not isinstance(stream, Stream):
            got = type(stream).__name__
            raise TypeError(f"RoundGraph: stream must be a torch.cuda.Stream, got {got}")
        self._loop.launch(stream.cuda_stream)

    def nodes(self) -> list[str]:
        """What the graph holds, in order, a line each; bodies of conditional nodes are indented.

        Returns
        -------
        list of str
            Such as ``"while num_active > 0 and steps < 4"`` and ``"  body: 14 kernel, 1 memset"``.
        """
        return self._loop.nodes()

    def close(self) -> None:
        """Give up the graph and what it kept; a second time does nothing.

        Launches that were queued end first; the memory of the captured graphs is torch's again at
        once, so whoever allocates on other streams waits for them. Garbage collection and the
        interpreter's end close it too.
        """
        self._finalizer()
        self._kept = ()


def _device_of(**tensors: Tensor) -> torch.device:
    """The one device of [1] int32 tensors that do not overlap."""
    devices, addresses = {}, set()
    for name, tensor in tensors.items():
        require_tensor("RoundGraph", name, tensor)
        if tensor.dtype != torch.int32:
            got = str(tensor.dtype).removeprefix("torch.")
            raise TypeError(f"RoundGraph: {name} must be int32, got {got}")
        if tensor.shape != (1,):
            raise ValueError(f"RoundGraph: {name} must be [1], got {list(tensor.shape)}")
        if tensor.device.type not in _library.CUDA_DEVICES:
            raise ValueError(f"RoundGraph: {name} must be on a cuda device, got {tensor.device}")
        devices[name] = tensor.device
        addresses.add(tensor.data_ptr())
    expected, got = devices.values()
    if got != expected:
        raise ValueError(f"RoundGraph: steps must be on {expected}, got {got}")
    if len(addresses) < len(tensors):
        raise ValueError("RoundGraph: steps must be another tensor than num_active, got the same")
    return expected


def _require_widths(verify: Mapping[int, CUDAGraph], slots: int) -> None:
    if not _is_int(slots):
        raise TypeError(f"RoundGraph: slots must be an int, got {type(slots).__name__}")
    if slots < 1:
        raise ValueError(f"RoundGraph: slots must be at least 1, got {slots}")
    if not isinstance(verify, Mapping):
        raise TypeError(f"RoundGraph: verify must be a mapping, got {type(verify).__name__}")
    widths = list(verify)
    for width in widths:
        if not _is_int(width):
            raise TypeError(f"RoundGraph: widths of verify must be int, got {width!r}")
    if not widths or widths[0] < 0 or widths[-1] != slots or widths != sorted(widths):
        raise ValueError(f"RoundGraph: widths of verify must rise to slots = {slots}, got {widths}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _raw(name: str, graph: CUDAGraph) -> int:
    """The address of the graph that torch has captured."""
    if not isinstance(graph, CUDAGraph):
        got = type(graph).__name__
        raise TypeError(f"RoundGraph: {name} must be a torch.cuda.CUDAGraph, got {got}")
    try:
        return graph.raw_cuda_graph()
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise ValueError(
            f"RoundGraph: {name} must be captured with keep_graph=True, got: {said}"
        ) from error


def _kernels(device: int) -> tuple[int, ...]:
    """The kernels between the parts, as the driver's functions on this device.

    Its context is the current one of this thread afterwards, also where the thread had none.
    """
    function = ctypes.CDLL(str(_library.CUDA_PATH)).tapout_graph_kernels
    function.restype = ctypes.c_char_p
    found = (ctypes.c_void_p * 3)()
    problem = function(device, found)
    if problem is not None:
        raise RuntimeError(f"RoundGraph: its kernels did not load: {problem.decode()}")
    return tuple(found)
