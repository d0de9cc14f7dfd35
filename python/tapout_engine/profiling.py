"""What a round of decoding costs: steps, forwards, kernels, host time, reads and launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

from .decode import BatchDecoder, SpeculativeDecoder
from .graph_loop import GraphDecoder
from .requests import Request
from .summary import table

ROUND = "round"
_READS = {"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__",
          "__index__"}  # fmt: skip
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cuGraphLaunch",
             "cudaMemcpyAsync", "cudaMemsetAsync", "hipLaunchKernel", "hipExtLaunchKernel",
             "hipGraphLaunch", "hipMemcpyAsync", "hipMemsetAsync")  # fmt: skip
_WAITS = tuple(f"{api}{what}Synchronize" for api in ("cuda", "hip")
               for what in ("Stream", "Device", "Event"))  # fmt: skip


@dataclass(frozen=True)
class RoundProfile:
    """Means of a round.

    ``kernels`` are what ran on the GPU, copies included; on a CPU the operators that a round calls.
    ``host_ms`` is from the begin of its code to the end, waits included, without the profiler.
    ``syncs`` are waits for the GPU inside it; on a CPU the values that Python asked tensors for.
    ``launches`` are its calls that put work on the GPU.
    """

    rounds: int
    steps: float
    forwards: float
    kernels: float
    host_ms: float
    syncs: float
    launches: float


class HostReads(TorchFunctionMode):
    """Counts the tensors whose values Python asks for."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in _READS
        return function(*args, **(kwargs or {}))


class Watch:
    """Stands around every round of a decoder, and begins to look at the first.

    Parameters
    ----------
    run : callable
        One round.
    around : callable, optional
        What a round runs inside of.
    begin : callable, optional
        Called before the first one.
    """

    def __init__(
        self,
        run: Callable[..., object],
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
        begin: Callable[[], object] | None = None,
    ):
        self.run, self.around, self.begin = run, around, begin
        self.rounds, self.seconds = 0, 0.0

    def __call__(self, *arguments: object) -> object:
        if not self.rounds and self.begin is not None:
            self.begin()
        self.rounds += 1
        begin = perf_counter()
        with self.around():
            result = self.run(*arguments)
        self.seconds += perf_counter() - begin
        return result


def profile_rounds(
    decoder: SpeculativeDecoder | GraphDecoder, requests: Sequence[Request], trace: Path
) -> RoundProfile:
    """Decode three times: to warm up, to take the time, to count; write a Chrome trace.

    Parameters
    ----------
    decoder : SpeculativeDecoder or GraphDecoder
        With rows for all requests.
    requests : sequence of Request
    trace : Path
        A ``.json`` file, for ``chrome://tracing`` or Perfetto.
    """
    decoder.generate(requests)
    with watching(decoder) as timed:
        decoder.generate(requests)
    reads = HostReads()
    gpu = decoder.target.device.type == "cuda"
    profiler = profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu])
    forwards = _Forwards(decoder)

    def begin() -> None:
        forwards.begin()
        profiler.start()

    with watching(decoder, around=lambda: _inside(reads), begin=begin) as counted:
        decoder.generate(requests)
    if gpu:
        torch.cuda.synchronize()
    profiler.stop()
    profiler.export_chrome_trace(str(trace))
    steps, passes = forwards.end()
    work = work_of(profiler.events())
    rounds = counted.rounds
    return RoundProfile(
        rounds=rounds, steps=steps / rounds, forwards=passes / rounds,
        kernels=(work.kernels if gpu else work.operators) / rounds,
        host_ms=1e3 * timed.seconds / timed.rounds,
        syncs=(work.waits if gpu else reads.count) / rounds, launches=work.launches / rounds,
    )  # fmt: skip


def profile_table(profiles: dict[str, RoundProfile], gpu: bool) -> str:
    """A line for each way to decode; every number but the first is of one round."""
    header = ("", "rounds", "draft steps", "forwards", "kernels" if gpu else "operators",
              "host ms", "syncs", "launches")  # fmt: skip
    rows = [
        (
            name, str(one.rounds), f"{one.steps:.2f}", f"{one.forwards:.2f}", f"{one.kernels:.0f}",
            f"{one.host_ms:.3f}", f"{one.syncs:.2f}", f"{one.launches:.1f}" if gpu else "-",
        )
        for name, one in profiles.items()
    ]  # fmt: skip
    return table(header, rows)


@contextmanager
def watching(decoder: BatchDecoder | GraphDecoder, **how: Callable[..., object]) -> Iterator[Watch]:
    """A watch around every round while this lasts; ``how`` are the watch's further parameters."""
    if isinstance(decoder, GraphDecoder):
        owner, name = decoder.runner, "launch"
    else:
        owner, name = decoder, "_advance"
    watch = Watch(getattr(owner, name), **how)
    setattr(owner, name, watch)
    try:
        yield watch
    finally:
        delattr(owner, name)  # the method of its class comes back


@contextmanager
def _inside(reads: HostReads) -> Iterator[None]:
    with record_function(ROUND), reads:
        yield


class _Forwards:
    """Counts draft steps and all forwards from :meth:`begin` on.

    Graphs call no Python, so a loop of them is asked how many steps it took.
    """

    def __init__(self, decoder: SpeculativeDecoder | GraphDecoder):
        self.decoder, self.calls = decoder, {"target": 0, "draft": 0}
        self.wrapped: list[tuple[object, str]] = []

    def begin(self) -> None:
        if isinstance(self.decoder, GraphDecoder):
            return
        self._count(self.decoder.target, "target", ("forward", "forward_ragged"))
        for lane in self.decoder.lanes:
            self._count(lane.drafter, "draft", ("step",))

    def end(self) -> tuple[int, int]:
        """Draft steps, and forwards of any kind."""
        for model, name in self.wrapped:
            delattr(model, name)
        if isinstance(self.decoder, GraphDecoder):
            return sum(self.decoder.steps), sum(
                map(self.decoder.round.forwards, self.decoder.steps)
            )
        return self.calls["draft"], sum(self.calls.values())

    def _count(self, model: object, kind: str, names: Sequence[str]) -> None:
        for name in (name for name in names if hasattr(model, name)):
            setattr(model, name, self._counted(getattr(model, name), kind))
            self.wrapped.append((model, name))

    def _counted(self, method: Callable[..., object], kind: str) -> Callable[..., object]:
        def called(*arguments: object) -> object:
            self.calls[kind] += 1
            return method(*arguments)

        return called


class Work(NamedTuple):
    """What the events of a trace are: on the GPU, and of the host inside rounds."""

    kernels: int
    operators: int
    launches: int
    waits: int


def work_of(events: Sequence[FunctionEvent]) -> Work:
    """Count; operators are those that a round itself calls, not another operator."""
    host = [event for event in events if event.device_type == DeviceType.CPU and _in_round(event)]
    return Work(
        kernels=sum(e.device_type == DeviceType.CUDA and e.name != ROUND for e in events),
        operators=sum(event.cpu_parent.name == ROUND for event in host),
        launches=sum(event.name.startswith(_LAUNCHES) for event in host),
        waits=sum(event.name in _WAITS for event in host),
    )


def _in_round(event: FunctionEvent) -> bool:
    above = event.cpu_parent
    while above is not None and above.name != ROUND:
        above = above.cpu_parent
    return above is not None
