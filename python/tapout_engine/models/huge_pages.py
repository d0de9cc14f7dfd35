"""Memory for weights in pages of two megabytes, where the system has them.

Every product streams through all of its weights.  In small pages that is an address to look up
every four kilobytes: see `docs/kernels.md`.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

HERE = hasattr(mmap, "MADV_HUGEPAGE")
CHUNK = 1 << 25  # bytes asked for at a time: most matrices are smaller than a page
ALIGN = 64

_rest = torch.empty(0, dtype=torch.uint8)  # of the newest chunk


def settled(x: Tensor) -> Tensor:
    """A contiguous copy of a CPU tensor, in such memory where there is any: freed with the last
    tensor of its chunk."""
    global _rest
    if not HERE:
        return x.contiguous()
    size = x.nbytes + -x.nbytes % ALIGN
    if size > len(_rest):
        _rest = _chunk(max(size, CHUNK))
    taken, _rest = _rest[: x.nbytes], _rest[size:]
    return taken.view(x.dtype).view(x.shape).copy_(x)


def _chunk(size: int) -> Tensor:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
