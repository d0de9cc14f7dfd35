"""The floor of an operator: the best plain kernel over exactly the bytes it has to move.

Rows are read and summed, or copied, in the very buffers of the operator, by a kernel that does
nothing else; of a few block sizes the best counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from rounds import Required
from torch import Tensor

Call = Callable[[int], None]


class Variant(NamedTuple):
    block_bytes: int  # of one program
    warps: int


VARIANTS = tuple(Variant(kib << 10, warps) for kib in (4, 8, 16, 32) for warps in (4, 8))


@triton.jit(do_not_specialize=["num_target"])
def _read_rows(target, draft, rows, out, num_target, row_words, BLOCK: tl.constexpr):
    """Program (row, part) sums one block of a row; rows from ``num_target`` on are draft rows."""
    index = tl.program_id(0)
    base = target
    if index >= num_target:
        base = draft
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + index) * row_words
    words = tl.load(base + row + offsets, mask=offsets < row_words, other=0)
    tl.store(out + index * tl.num_programs(1) + tl.program_id(1), tl.sum(words.to(tl.int32), 0))


@triton.jit
def _copy_rows(source, kept, row_words, BLOCK: tl.constexpr):
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(0).to(tl.int64) * row_words
    inside = offsets < row_words
    tl.store(kept + row + offsets, tl.load(source + row + offsets, mask=inside), mask=inside)


def words_of(logits: Tensor) -> Tensor:
    """The same memory as 16-bit integers: reading needs no arithmetic of the logits' own."""
    return logits.view(torch.int16)


def read_call(
    target: Sequence[Tensor],  # of every set, [B, K+1, V] or [B, V]
    draft: Sequence[Tensor],
    required: Sequence[Required],
    variant: Variant,
) -> tuple[Call, Tensor]:
    """A call that reads the required rows of set ``i``, and where it leaves their sums."""
    device, row_words = target[0].device, words_of(target[0]).shape[-1]
    block = variant.block_bytes // 2
    parts = triton.cdiv(row_words, block)
    rows = [torch.tensor([*one.target, *one.draft], device=device) for one in required]
    sums = torch.zeros(max(map(len, rows)) * parts, dtype=torch.int32, device=device)
    words = [(words_of(t), words_of(d)) for t, d in zip(target, draft, strict=True)]

    def call(i: int) -> None:
        i %= len(rows)
        _read_rows[(len(rows[i]), parts)](
            *words[i], rows[i], sums, len(required[i].target), row_words, BLOCK=block,
            num_warps=variant.warps,
        )  # fmt: skip

    return call, sums


def copy_call(source: Sequence[Tensor], kept: Sequence[Tensor], variant: Variant) -> Call:
    """A call that copies the [B, V] rows of set ``i`` to where the operator keeps them."""
    block = variant.block_bytes // 2
    left, right = ([words_of(x) for x in rows] for rows in (source, kept))
    row_words = left[0].shape[-1]

    def call(i: int) -> None:
        one = left[i % len(left)]
        _copy_rows[(len(one), triton.cdiv(row_words, block))](
            one, right[i % len(right)], row_words, BLOCK=block, num_warps=variant.warps
        )

    return call


@triton.jit
def _empty():
    pass


def empty_call(_: int) -> None:
    """A kernel that does nothing: what a launch in a graph costs."""
    _empty[(1,)]()
