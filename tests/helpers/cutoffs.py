"""Rows and filters that are hard on the search for a cutoff.

As a program (``TAPOUT_CPU_ISA`` chooses the instruction set): a digest of every cutoff, on one
thread and on two, with rows that threads share and rows that they split.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tapout_kernels.backends import cpu_isa

from .raw import caller

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VOCABS = (1, 7, 1024, 1025, 8193, 49152, 128256)
CUTOFF = 5  # column of a row of statistics


class Filters(NamedTuple):
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    temperature: float = 1.0


def filters(vocab: int) -> list[Filters]:
    top_k = [Filters(top_k=k) for k in (1, 2, 50, 1023, vocab - 1)]
    top_p = [Filters(top_p=p) for p in (0.0, 1e-6, 0.5, 0.9, 0.999999)]
    min_p = [Filters(min_p=p) for p in (1e-6, 0.1, 1.0, 2.0)]
    mixed = [
        Filters(50, 0.9), Filters(1023, 0.5), Filters(vocab // 2, 0.9, 0.01), Filters(0, 0.99, 0.1),
        Filters(2, 1.0, 0.5), Filters(0, 0.9, 0.0, 0.3), Filters(100, 0.9, 0.001, 3.0),
    ]  # fmt: skip
    return top_k + top_p + min_p + mixed


def rows(vocab: int, dtype: torch.dtype) -> Tensor:
    """Spread, steep, a peak, ties, one value, sorted, gaps, one finite logit, both zeros."""
    generator = torch.Generator().manual_seed(vocab)
    z = torch.randn(9, vocab, generator=generator)
    z[1] *= 3
    z[2, vocab // 2] = 14.0
    z[3] = (z[3] * 2).round() / 2
    z[4] = -1.25
    z[5] = z[5].sort().values
    z[6, torch.rand(vocab, generator=generator) < 0.6] = -torch.inf
    z[6, vocab // 3] = 0.25
    z[7] = -torch.inf
    z[7, vocab - 1] = -2.0
    z[8] = torch.where(z[8] > 0, 0.0, -0.0) + torch.where(z[8].abs() > 2, z[8] * 1e-3, 0.0)
    return z.to(dtype)


def cutoffs(logits: Tensor, chosen: Filters, backend: str = "cpu") -> Tensor:
    """[R] what a backend cuts each row at."""
    batch = len(logits)
    stats = torch.zeros(batch, 8)
    caller(backend)(
        "row_stats",
        logits=logits,
        temperature=torch.full((batch,), chosen.temperature),
        top_k=torch.full((batch,), chosen.top_k, dtype=torch.int32),
        top_p=torch.full((batch,), chosen.top_p),
        min_p=torch.full((batch,), chosen.min_p),
        token_mask=None,
        token=None,
        stats=stats,
    )
    return stats[:, CUTOFF].clone()


def everything() -> Iterator[Tensor]:
    """Every cutoff once in rows for a thread each, and once in rows that all threads work on."""
    for vocab in (7, 1025, 8193, 49152):
        for dtype in DTYPES:
            z = rows(vocab, dtype)
            for chosen in filters(vocab)[:: 1 if vocab < 8193 else 4]:
                together = cutoffs(z, chosen)
                split = torch.cat([cutoffs(part, chosen) for part in z.split(3)])
                assert split.equal(together), (vocab, dtype, chosen)
                yield together


def main() -> None:
    digests = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        state = hashlib.sha256()
        for found in everything():
            state.update(found.numpy().tobytes())
        digests.append(state.hexdigest())
    json.dump({"isa": cpu_isa(), "digests": digests}, sys.stdout)


if __name__ == "__main__":
    main()
