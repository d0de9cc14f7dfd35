"""The public operators, one module each."""

from .bandit_select import bandit_select
from .bandit_step import bandit_step
from .bandit_update import bandit_update
from .compact_kv import compact_kv
from .draft_step import draft_step
from .row_stats import row_stats
from .sample import sample
from .tree_attention import tree_attention
from .tree_expand import tree_expand
from .tree_layout import tree_layout
from .tree_mask import tree_mask
from .tree_rerank import tree_rerank
from .tree_verify import tree_verify
from .verify import verify

__all__ = [
    "bandit_select", "bandit_step", "bandit_update", "compact_kv", "draft_step", "row_stats",
    "sample", "tree_attention", "tree_expand", "tree_layout", "tree_mask", "tree_rerank",
    "tree_verify", "verify",
]  # fmt: skip
