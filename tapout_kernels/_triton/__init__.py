"""Triton kernels of every operator: NVIDIA without a compiler, and AMD.

``core`` mirrors ``csrc/core``; ``row``, ``law``, ``search`` and ``draw`` read, filter and sample a
row of logits; the other modules are one operator each.  Kernels take pointers in the groups of
``params``; integers are arguments of their own, typed i64, so that no batch size, draft length or
vocabulary compiles anything anew.
"""

from __future__ import annotations

from .draft_step import draft_step
from .row_stats import row_stats
from .sample import sample

OPS = {
    function.__name__: function
    for function in (
        draft_step, row_stats, sample,
    )
}  # fmt: skip
__all__ = ["OPS"]
