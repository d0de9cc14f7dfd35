"""A CUDA driver on the host (tests/native/fake_driver*.cpp), and what torch would have captured.

It runs the graphs it is told of: the kernels between the parts of a round are the sources that nvcc
compiles, in the emulator; a captured kernel calls a function of the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tapout_kernels import _library, round_graph
from tapout_kernels.round_graph import RoundGraph

from . import cuda_mutants, emulation
from .mutants import Edit

NODES = ("kernel", "memcpy", "memset", "host", "graph", "empty", "wait", "record", "signal",
         "semaphore", "alloc", "free", "memop", "conditional")  # fmt: skip
SLOTS, STREAM = 5, 0x1234
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int)
SOURCES = [Path(f"tests/native/{name}.cpp") for name in ("fake_driver", "fake_driver_run")]


def library() -> Path:
    """The driver and the kernels, one library."""
    return emulation.compiled("fake_driver.so", [Path("csrc/cuda/graph_loop.cu"), *SOURCES])


def mutants(mutants: Sequence[Sequence[Edit]]) -> Path:
    """The same with wrong kernels beside the right ones; ``choose_mutant`` says which are run."""
    folder = Path("build/emulation/round_mutants")
    edits = [(n, edit) for n, mutant in enumerate(mutants, 1) for edit in mutant]
    copies = cuda_mutants.copied(edits, folder)
    own = [path for path in copies if path.name in ("graph_loop.cu", "mutant.cpp")]
    flags = ("-include", str(folder / "mutant.h"))
    return emulation.compiled("fake_driver_mutants.so", [*own, *SOURCES], flags)


class Captured:
    """Stands for a torch.cuda.CUDAGraph."""

    def __init__(self, driver: FakeDriver | None = None, address: int = 0, callback: object = None):
        self._driver, self._address, self._callback = driver, address, callback

    def replay(self) -> None:
        self._callback(0)

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

    def choose_mutant(self, number: int) -> None:
        """Of a library of ``mutants``; 0 is the source as it is."""
        ctypes.c_int.in_dll(self.library, "tapout_mutant").value = number

    def alive(self) -> int:
        """Graphs, executable graphs and conditional handles."""
        return self.library.fake_alive()

    def state(self) -> tuple[int, int, int]:
        """What a call that failed must leave as it was: besides, of this thread."""
        return self.alive(), self.library.fake_contexts(), self.library.fake_capture_mode()


@contextlib.contextmanager
def in_place(monkeypatch: pytest.MonkeyPatch, library: Path) -> Iterator[FakeDriver]:
    """The driver and tensors of the host instead of CUDA's; it must have had no complaint."""
    found = FakeDriver(library)
    stream = SimpleNamespace(cuda_stream=STREAM)
    monkeypatch.setattr(round_graph, "_DRIVER", found.path)
    monkeypatch.setattr(round_graph, "CUDAGraph", Captured)
    monkeypatch.setattr(round_graph, "Stream", SimpleNamespace)
    monkeypatch.setattr(_library, "CUDA_PATH", library)
    monkeypatch.setattr(_library, "CUDA_UNAVAILABLE", None)
    monkeypatch.setattr(_library, "CUDA_DEVICES", {"cuda", "cpu"})
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    yield found
    gc.collect()
    assert found.complaints() == ""
    assert found.state() == (0, 1, 0)


class Round:
    """A round whose requests draft as planned: what num_active is before each step."""

    def __init__(self, driver: FakeDriver, widths: Sequence[int] = (SLOTS,), slots: int = SLOTS):
        self.log: list[str] = []
        self.plan: Sequence[int] = ()
        self.num_active = torch.full((1,), 77, dtype=torch.int32)
        self.steps = torch.full((1,), 99, dtype=torch.int32)
        before, body, after = (
            driver.captured(getattr(self, x)) for x in ("before", "body", "after")
        )
        verify = {width: driver.captured(self.verify(width)) for width in widths}
        self.graph = RoundGraph(before, body, verify, after, num_active=self.num_active,
                                steps=self.steps, slots=slots)  # fmt: skip

    def before(self) -> None:
        self.log.append("before")
        self.steps.fill_(-3)  # the loop itself begins at 0
        self.num_active.fill_(self.plan[0])

    def body(self) -> None:
        self.log.append(f"body {self.steps.item()}")
        self.num_active.fill_(self.plan[self.steps.item() + 1])

    def verify(self, width: int) -> Callable[[], None]:
        return lambda: self.log.append(f"verify {width}")

    def after(self) -> None:
        self.log.append(f"after {self.steps.item()}")

    def launch(self, plan: Sequence[int]) -> list[str]:
        self.plan = plan
        self.log.clear()
        self.graph.launch()
        return list(self.log)


def on_the_host(plan: Sequence[int], widths: Sequence[int], slots: int = SLOTS) -> list[str]:
    """The same round by a loop that asks."""
    log, steps = ["before"], 0
    while plan[steps] > 0 and steps < slots:
        log.append(f"body {steps}")
        steps += 1
    width = next(width for width in widths if width >= steps)
    return [*log, f"verify {width}", f"after {steps}"]
