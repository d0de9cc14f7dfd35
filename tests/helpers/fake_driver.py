"""A CUDA driver on the host (tests/native/fake_driver*.cpp), and what torch would have captured.

It runs the graphs it is told of: the kernels between the parts of a round are the sources that nvcc
compiles, in the emulator; a captured kernel calls a function of the test.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

from . import emulation

NODES = ("kernel", "memcpy", "memset", "host", "graph", "empty", "wait", "record", "signal",
         "semaphore", "alloc", "free", "memop", "conditional")  # fmt: skip
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int)
SOURCES = [Path(f"tests/native/{name}.cpp") for name in ("fake_driver", "fake_driver_run")]


def library() -> Path:
    """The driver and the kernels, one library."""
    return emulation.compiled("fake_driver.so", [Path("csrc/cuda/graph_loop.cu"), *SOURCES])


class Captured:
    """Stands for a torch.cuda.CUDAGraph."""

    def __init__(self, driver: FakeDriver | None = None, address: int = 0, callback: object = None):
        self._driver, self._address, self._callback = driver, address, callback

    def raw_cuda_graph(self) -> int:
        if self._driver is None:
            raise RuntimeError("You cannot access the raw cudaGraph_t instance\nC++ trace")
        return self._address

    def __del__(self):
        if self._driver is not None:
            self._driver.library.fake_release(self._address)


class FakeDriver:
    def __init__(self, path: Path):
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.fake_captured.restype = ctypes.c_void_p
        self.library.fake_captured.argtypes = [ctypes.c_void_p, ctypes.c_int, _CALLBACK,
                                               ctypes.c_int]  # fmt: skip
        self.library.fake_release.argtypes = [ctypes.c_void_p]
        self.library.fake_stream.restype = ctypes.c_void_p
        for name in ("fake_failed", "fake_complaint", "emulator_error"):
            getattr(self.library, name).restype = ctypes.c_char_p
        self.library.fake_begin()

    def captured(
        self, run: Callable[[], object] = lambda: None, nodes: Sequence[str] = ("kernel",)
    ) -> Captured:
        """A graph of these nodes, one after the other; each kernel of it calls ``run()``."""
        types = (ctypes.c_int * len(nodes))(*[NODES.index(name) for name in nodes])
        callback = _CALLBACK(lambda _tag: run())
        address = self.library.fake_captured(types, len(nodes), callback, 0)
        return Captured(self, address, callback)

    def fail_at(self, call: int) -> None:
        """The call of the driver that fails, counted from now; 0: none."""
        self.library.fake_fail_at(call)

    def failed(self) -> str:
        """The name of the call that did."""
        return self.library.fake_failed().decode()

    def calls(self) -> int:
        """Since ``fail_at``."""
        return self.library.fake_calls()

    def complaints(self) -> str:
        """What was against CUDA's documentation so far."""
        return self.library.fake_complaint().decode() + self.library.emulator_error().decode()

    def alive(self) -> int:
        """Graphs, executable graphs and conditional handles."""
        return self.library.fake_alive()

    def state(self) -> tuple[int, int, int]:
        """What a call that failed must leave as it was: besides, of this thread."""
        return self.alive(), self.library.fake_contexts(), self.library.fake_capture_mode()
