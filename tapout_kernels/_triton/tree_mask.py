"""tree_mask: the bits of who sees whom as bits, bools, or 0 and -inf; one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.tree import sees, visible_word
from .launch import launch, tuning

ROWS = tl.constexpr(16)  # of a program
COLUMNS = tl.constexpr(128)  # written together


@triton.jit(
    do_not_specialize=["nodes", "rows", "columns", "batch_stride", "row_stride", "blocks"]
)  # fmt: skip
def tree_mask_kernel(
    ancestors, mask, nodes: tl.int64, rows: tl.int64, columns: tl.int64, batch_stride: tl.int64,
    row_stride: tl.int64, blocks: tl.int32, BITS: tl.constexpr, ADDITIVE: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // blocks).to(tl.int64)
    q = (tl.program_id(0) % blocks).to(tl.int32) * ROWS + tl.arange(0, ROWS)[:, None]
    root = (rows - nodes).to(tl.int32)
    n = nodes.to(tl.int32)
    ancestors += b * nodes * tl.cdiv(nodes, 32)
    mask += b * batch_stride + q.to(tl.int64) * row_stride
    for first in range(0, columns.to(tl.int32), COLUMNS):
        k = first + tl.arange(0, COLUMNS)[None, :]
        known = (q < rows) & (k < columns)
        if BITS:
            value = visible_word(ancestors, n, root, q, k, known)
        else:
            value = sees(ancestors, n, root, q, k, known)
            if ADDITIVE:
                value = tl.where(value, 0.0, float("-inf")).to(mask.dtype.element_ty)
        tl.store(mask + k, value, mask=known)


def tree_mask(ancestors: Tensor, mask: Tensor) -> None:
    (batch, rows, columns), nodes = mask.shape, ancestors.shape[1]
    blocks = triton.cdiv(rows, ROWS.value)
    launch(
        tree_mask_kernel, batch * blocks, ancestors, mask, nodes, rows, columns,
        mask.stride(0), mask.stride(1), blocks, warps=tuning(mask.device).warps,
        BITS=mask.dtype == torch.int32, ADDITIVE=mask.dtype not in (torch.int32, torch.bool),
    )  # fmt: skip
