"""How kernels are started: the tuning table, how many programs share a row, the workspace."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor


class Tuning(NamedTuple):
    """One row of the tuning table; ``tile`` fixes the order of sums: never of the batch."""

    tile: int  # logits reduced at once: the unit of the statistics and of the inverse CDF
    warps: int
    programs: int  # rows are split until there are about this many
    last_programs: int  # the same of the last launch of verify, which takes more registers
    pivots: int  # limits that a cutoff search measures in one pass
    listed: int  # groups of 128 ids it reads at once
    span: int  # slots of a cache that a program of tree_attention has: fixes the order of sums


# Not measured yet. A tile is 32 bytes of bf16 a thread; 16 programs for each of an H200's 132 SMs,
# 4 where registers leave room for no more.
GPU = Tuning(tile=2048, warps=4, programs=2112, last_programs=528, pivots=4, listed=8, span=2048)
INTERPRETER = Tuning(tile=4096, warps=1, programs=6, last_programs=6, pivots=64, listed=8, span=128)


def tuning(device: torch.device) -> Tuning:
    return INTERPRETER if device.type == "cpu" else GPU


def splits(rows: int, vocab: int, plan: Tuning) -> int:
    """Programs a row is split over; results do not depend on it."""
    return max(1, min(triton.cdiv(vocab, plan.tile), triton.cdiv(plan.programs, rows)))


Shape = tuple[tuple[int, ...], torch.dtype]


class Workspace(NamedTuple):
    """Scratch of one launch: tickets are 0 between launches, arrays hold anything."""

    tickets: Tensor  # [n] i32
    arrays: tuple[Tensor, ...]


class _Arena:
    """Memory that grows to the largest launch so far, with the views handed out of it."""

    def __init__(self, device: torch.device, num_bytes: int, tickets: int):
        self.bytes = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.tickets = torch.zeros(tickets, dtype=torch.int32, device=device)
        self.views: dict[tuple[Shape, ...], tuple[Tensor, ...]] = {}
        self.captured = False

    def holds(self, num_bytes: int, tickets: int) -> bool:
        return num_bytes <= self.bytes.numel() and tickets <= self.tickets.numel()

    def arrays(self, shapes: tuple[Shape, ...]) -> tuple[Tensor, ...]:
        found = self.views.get(shapes)
        if found is None:
            found = self.views[shapes] = tuple(self._carve(shapes))
        return found

    def _carve(self, shapes: tuple[Shape, ...]):
        begin = 0
        for shape, dtype in shapes:
            end = begin + math.prod(shape) * dtype.itemsize
            yield self.bytes[begin:end].view(dtype).view(shape)
            begin = _aligned(end)


_arenas: dict[tuple[torch.device, int], _Arena] = {}
_outgrown: list[_Arena] = []  # captured graphs still point into them


def _aligned(num_bytes: int) -> int:
    return (num_bytes + 255) // 256 * 256


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def workspace(device: torch.device, tickets: int, *shapes: Shape) -> Workspace:
    """Scratch for the next launch on the current stream, cached per device and stream.

    While a graph is captured memory cannot be added to the cache: what is not there yet (see
    ``warmup``) is allocated for this launch alone, at the cost of clearing its tickets.  Memory a
    graph has captured is kept for good: graphs captured on one stream share it, and must not run
    at the same time.
    """
    num_bytes = sum(_aligned(math.prod(shape) * dtype.itemsize) for shape, dtype in shapes)
    on_gpu, capturing = device.type == "cuda", _capturing(device)
    key = (device, torch.cuda.current_stream(device).cuda_stream if on_gpu else 0)
    arena = _arenas.get(key)
    if arena is None or not arena.holds(num_bytes, tickets):
        old = (arena.bytes.numel(), arena.tickets.numel()) if arena and not capturing else (0, 0)
        grown = _Arena(device, max(num_bytes, old[0]), max(tickets, old[1]))
        if not capturing:
            _arenas[key] = grown
            if arena is not None and arena.captured:
                _outgrown.append(arena)
        arena = grown
    arena.captured = arena.captured or capturing
    return Workspace(arena.tickets, arena.arrays(shapes))


def launch(
    kernel: triton.JITFunction, programs: int, *args: object, warps: int, **constants: object
):
    """``kernel`` on a one-dimensional grid; no contraction of products into sums.

    A kernel is compiled anew for pointers that are not multiples of 16 bytes, also inside tuples.
    """
    kernel[(programs,)](*args, num_warps=warps, enable_fp_fusion=False, **constants)
