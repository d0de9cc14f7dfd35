"""Kernels for dynamic speculative decoding: draft, stop, verify and learn without the host.

Import one function and use it in any engine::

    import tapout_kernels as tk

    token = tk.draft_step(draft_logits, proposal, sampling, rng, rules=rules, state=state)
    verdict = tk.verify(target_logits, proposal, sampling, rng)

Every operator runs on the best backend for its tensors; ``backend_report()`` says which and why.
"""

from .backends import (
    BackendUnavailable,
    NotYetSupported,
    available_backends,
    backend_report,
    cpu_isa,
)
from .bandit_state import BanditState
from .draft_vocab import DraftVocab
from .full_information import DrafterRing, observe_drafters
from .ops import (
    bandit_select,
    bandit_step,
    bandit_update,
    compact_kv,
    draft_step,
    row_stats,
    sample,
    tree_attention,
    tree_expand,
    tree_layout,
    tree_mask,
    tree_rerank,
    tree_verify,
    verify,
)
from .proposal import Proposal
from .reference.rng import mix64
from .stop_rules import StopRules, StopState
from .tree import FlatMask, TreeLayout, TreeVerdict
from .tree_draft import TreeDraft
from .tree_proposal import TreeProposal
from .tree_shape import TreeLevel, TreeShape, sequoia_tree, tree_template
from .types import RngState, SamplingParams, Verdict
from .warmup import warmup

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable", "BanditState", "DraftVocab", "DrafterRing", "FlatMask", "NotYetSupported",
    "Proposal", "RngState", "SamplingParams", "StopRules", "StopState", "TreeDraft", "TreeLayout",
    "TreeLevel", "TreeProposal", "TreeShape", "TreeVerdict", "Verdict", "available_backends",
    "backend_report", "bandit_select", "bandit_step", "bandit_update", "compact_kv", "cpu_isa",
    "draft_step", "mix64", "observe_drafters", "row_stats", "sample", "sequoia_tree",
    "tree_attention", "tree_expand", "tree_layout", "tree_mask", "tree_rerank", "tree_template",
    "tree_verify", "verify", "warmup",
]  # fmt: skip
