"""Triton kernels of every operator: NVIDIA without a compiler, and AMD.

``core`` mirrors ``csrc/core``; ``row``, ``law``, ``search`` and ``draw`` read, filter and sample a
row of logits; the other modules are one operator each.  Kernels take pointers in the groups of
``params``; integers are arguments of their own, of annotated type, so that no batch size, draft
length or vocabulary compiles anything anew.
"""

from __future__ import annotations

from .bandit_select import bandit_select
from .bandit_step import bandit_step
from .bandit_update import bandit_update
from .compact_kv import compact_kv
from .draft_step import draft_step
from .proposal_load import proposal_load
from .proposal_reset import proposal_reset
from .row_stats import row_stats
from .sample import sample
from .tree_attention import tree_attention
from .tree_expand import tree_expand
from .tree_layout import tree_layout
from .tree_mask import tree_mask
from .tree_mask_flat import tree_mask_flat
from .tree_rerank import tree_rerank
from .tree_verify import tree_verify
from .verify import verify

OPS = {
    function.__name__: function
    for function in (
        bandit_select, bandit_step, bandit_update, compact_kv, draft_step,
        proposal_load, proposal_reset, row_stats, sample, tree_attention, tree_expand,
        tree_layout, tree_mask, tree_mask_flat, tree_rerank, tree_verify, verify,
    )
}  # fmt: skip
__all__ = ["OPS"]
