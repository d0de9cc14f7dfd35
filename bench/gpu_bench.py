"""How a row of the GPU benchmark is measured: times, floors, and peers beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import gpu_timing
import torch
from gpu_cases import Case
from gpu_peers import Peer
from harness import summary
from rounds import Required
from torch import Tensor

Row = dict[str, object]
Call = Callable[[int], object]  # of the number of the call
PEER_CALLS = 16  # in a replay, at least: slower than ours, fewer share what a replay costs


class Bench:
    """A device, a backend, and how both are timed."""

    device = "cuda"
    sets_for = staticmethod(gpu_timing.sets_for)
    times_us = staticmethod(gpu_timing.graph_times_us)
    slow_times_us = staticmethod(gpu_timing.event_times_us)
    captured = staticmethod(gpu_timing.captured)

    def __init__(self, backend: str, peers: dict[str, Peer], missing: dict[str, str]):
        self.backend = backend
        self.peers = peers  # of verify
        self.missing = missing  # and why the others are not among them
        self._lawful: set[tuple[str, str, bool]] = set()

    def read_floor(
        self,
        target: Sequence[Tensor],
        draft: Sequence[Tensor],
        required: Sequence[Required],
        calls: int,
    ) -> Row:
        """The best plain kernel that reads the required rows of every set."""
        import floor  # Triton, which a machine without a GPU may lack

        return self._best(
            {v: floor.read_call(target, draft, required, v)[0] for v in floor.VARIANTS}, calls
        )

    def copy_floor(self, source: Sequence[Tensor], kept: Sequence[Tensor], calls: int) -> Row:
        """The best plain kernel that reads the rows of every set and stores them elsewhere."""
        import floor

        return self._best({v: floor.copy_call(source, kept, v) for v in floor.VARIANTS}, calls)

    def empty_us(self, kernels: int) -> float:
        """Kernels that do nothing, in a graph: what no so many launches are cheaper than."""
        import floor

        def call(i: int) -> None:
            for _ in range(kernels):
                floor.empty_call(i)

        return summary(self.times_us(call, gpu_timing.calls_for(1)))["median_us"]

    def alive(self) -> bool:
        """Whether the device still works: an error inside a kernel ends a CUDA context."""
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
        return True

    def _best(self, variants: dict[object, Call], calls: int) -> Row:
        found = {
            variant: summary(self.times_us(call, calls, budget_s=0.1))
            for variant, call in variants.items()
        }
        best = min(found, key=lambda variant: found[variant]["median_us"])
        kernel = f"{best.block_bytes} bytes, {best.warps} warps"
        return {"floor_us": found[best]["median_us"], "floor_kernel": kernel}

    def beside(
        self,
        peers: dict[str, Peer],
        case: Case,
        law: Callable[..., None],
        prepare: Callable[[Peer, int], Callable[[], object]],
        sets: int,
        ours_us: float,
    ) -> Row:
        """Times of ``peers``; one that is wrong, or cannot run, leaves its reason in the row."""
        columns: Row = {}
        filters = {"top_k": 3, "top_p": 0.8} if case.filters else {}
        for name, peer in peers.items():
            key = (case.op, name, bool(filters))
            try:
                if key not in self._lawful:
                    law(name, peer.call, self.device, **filters)
                    self._lawful.add(key)
                calls = [prepare(peer, i) for i in range(sets)]
                columns |= self._timed(name, lambda i, calls=calls: calls[i % sets](), sets)
                columns[f"times_{name}"] = round(columns[f"{name}_us"] / ours_us, 1)
            except (Exception, SystemExit) as error:  # another project's code, or a refusal of it
                columns[f"{name}_missing"] = reason(error)
        return columns

    def _timed(self, name: str, call: Call, sets: int) -> Row:
        calls = sets * math.ceil(PEER_CALLS / sets)
        try:
            return {f"{name}_us": summary(self.times_us(call, calls))["median_us"]}
        except RuntimeError as error:  # it waits for the device, say: no graph can hold that
            torch.cuda.synchronize()
            found = summary(self.slow_times_us(call, calls))["median_us"]
            return {f"{name}_us": found, f"{name}_uncaptured": reason(error)}


def reason(error: BaseException) -> str:
    kind = "" if isinstance(error, SystemExit) else f"{type(error).__name__}: "
    return f"{kind}{error}".strip().splitlines()[0][:200]


def beside_backend(row: Row, name: str, other: Row) -> Row:
    """What another backend's row of the same shape says: its time, and those of peers."""
    times = {key.removeprefix("times_"): other[f"{key.removeprefix('times_')}_us"]
             for key in other if key.startswith("times_")}  # fmt: skip
    columns = {key: other[key] for key in other if key.endswith(("_missing", "_uncaptured"))}
    if "median_us" in other:
        times[name] = other["median_us"]
    for peer, time_us in times.items():
        columns[f"{peer}_us"] = time_us
        columns[f"times_{peer}"] = round(time_us / row["median_us"], 2 if peer == name else 1)
    return columns


def with_ratios(row: Row) -> Row:
    """GB/s and the fraction of the floor, from what was measured."""
    if "bytes" in row:
        row["gb_s"] = round(row["bytes"] / row["median_us"] / 1e3, 1)
    if "floor_us" in row:
        row["of_floor"] = round(row["floor_us"] / row["median_us"], 3)
    if row["op"] == "verify":  # two launches
        row["of_empty_pair"] = round(row["median_us"] / row["empty_pair_us"], 2)
    return row
