"""What a round of decoding costs: steps, forwards, kernels, host time, reads and launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

from .decode import SpeculativeDecoder
from .graph_loop import GraphDecoder
from .requests import Request
from .summary import table

ROUND = "round"
_READS = {"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__",
          "__index__"}  # fmt: skip
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync",
             "cudaMemsetAsync", "hipLaunchKernel", "hipGraphLaunch")  # fmt: skip


@dataclass(frozen=True)
class RoundProfile:
    """Means of a round.

    ``kernels`` are what ran on the GPU, copies included; on a CPU the operators that a round calls.
    ``host_ms`` is from the begin of its code to the end, waits included, without the profiler.
    ``reads`` are values the host asked for inside it, ``launches`` its calls of the driver.
    """

    rounds: int
    steps: float
    forwards: float
    kernels: float
    host_ms: float
    reads: float
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
    timed = _watched(decoder, requests, Watch)
    reads = HostReads()
    gpu = decoder.target.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    profiler = profile(activities=activities)
    forwards = _Forwards(decoder)

    def begin() -> None:
        forwards.begin()
        profiler.start()

    counted = _watched(decoder, requests, lambda run: Watch(run, lambda: _inside(reads), begin))
    if gpu:
        torch.cuda.synchronize()
    profiler.stop()
    profiler.export_chrome_trace(str(trace))
    steps, passes = forwards.end()
    kernels, launches = _work(profiler.events(), gpu)
    rounds = counted.rounds
    return RoundProfile(
        rounds=rounds, steps=steps / rounds, forwards=passes / rounds, kernels=kernels / rounds,
        host_ms=1e3 * timed.seconds / timed.rounds, reads=reads.count / rounds,
        launches=launches / rounds,
    )  # fmt: skip


def profile_table(profiles: dict[str, RoundProfile], gpu: bool) -> str:
    """A line for each way to decode; every number but the first is of one round."""
    header = ("", "rounds", "draft steps", "forwards", "kernels" if gpu else "operators",
              "host ms", "host reads", "launches")  # fmt: skip
    rows = [
        (
            name, str(one.rounds), f"{one.steps:.2f}", f"{one.forwards:.2f}", f"{one.kernels:.0f}",
            f"{one.host_ms:.3f}", f"{one.reads:.2f}", f"{one.launches:.1f}" if gpu else "-",
        )
        for name, one in profiles.items()
    ]  # fmt: skip
    return table(header, rows)


def _watched(
    decoder: SpeculativeDecoder | GraphDecoder,
    requests: Sequence[Request],
    watch: Callable[[Callable[..., object]], Watch],
) -> Watch:
    """Decode with a watch around every round."""
    if isinstance(decoder, GraphDecoder):
        owner, name = decoder.runner, "launch"
    else:
        owner, name = decoder, "_advance"
    watched = watch(getattr(owner, name))
    setattr(owner, name, watched)
    try:
        decoder.generate(requests)
    finally:
        delattr(owner, name)  # the method of its class comes back
    return watched


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
        self.handles = []

    def begin(self) -> None:
        if isinstance(self.decoder, GraphDecoder):
            return
        self._count(self.decoder.target, "target")
        for lane in self.decoder.lanes:
            self._count(lane.drafter, "draft")

    def end(self) -> tuple[int, int]:
        """Draft steps, and forwards of any kind."""
        for handle in self.handles:
            handle.remove()
        if isinstance(self.decoder, GraphDecoder):
            return sum(self.decoder.steps), sum(
                map(self.decoder.round.forwards, self.decoder.steps)
            )
        return self.calls["draft"], sum(self.calls.values())

    def _count(self, model: object, kind: str) -> None:
        def called(module: nn.Module, inputs: object) -> None:
            self.calls[kind] += 1

        for part in filter(lambda part: isinstance(part, nn.Module), vars(model).values()):
            self.handles.append(part.register_forward_pre_hook(called))


def _work(events: Sequence[FunctionEvent], gpu: bool) -> tuple[int, int]:
    """Kernels and launches; on a CPU the operators that rounds call, and none."""
    if gpu:
        ran = [event for event in events if event.device_type == DeviceType.CUDA]
        kernels = sum(event.name != ROUND for event in ran)
        return kernels, sum(event.name.startswith(_LAUNCHES) for event in events)
    parents = [event.cpu_parent for event in events]
    return sum(parent is not None and parent.name == ROUND for parent in parents), 0
