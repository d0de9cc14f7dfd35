"""Where the state of a batch row is: engines keep state per request slot, not per batch row."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def state_row(rows, states, b, inside):
    """The row of the tensors of ``states`` rows, or -1 where batch row b takes no part."""
    row = b
    if rows is not None:
        row = tl.load(rows + b, mask=inside, other=-1).to(tl.int64)
    return tl.where(inside & (row >= 0) & (row < states), row, -1)
