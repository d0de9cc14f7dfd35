"""``tree_rerank``: the tree of a draft, as ``tree_verify`` takes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import call
from ..tree import TreeLayout
from ..tree_draft import TreeDraft
from ..tree_proposal import TreeProposal
from ..types import NUM_STATS
from .tree_layout import tree_layout


def tree_rerank(
    draft: TreeDraft,
    *,
    position: Tensor | None = None,
    out: TreeProposal | None = None,
    backend: str | None = None,
) -> TreeProposal:
    """End a draft: of a dynamic shape the best candidates, of a static one all nodes.

    The best candidates are those of the largest scores (EAGLE-2's global rerank, 2406.16858), the
    earliest of a tie. No score is above its parent's, so parents are among them; a candidate whose
    parent is not is left out. They keep their order, which has parents before children.

    Parameters
    ----------
    draft : TreeDraft
        After its last :func:`tapout_kernels.tree_expand`; levels that are missing are no nodes.
    position : Tensor, optional
        [B] int64, the position of the root, for the layout.
    out : TreeProposal, optional
        What an earlier call returned for this very draft, to be written again.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    TreeProposal
        Of N nodes; drawn children come with the logits and statistics they were drawn with, which
        are the draft's own buffers.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout, or an ``out`` of another draft.

    Examples
    --------
    >>> rng, draft = RngState.of(0), TreeDraft.empty(1, TreeShape.static([-1, -1]), vocab=4)
    >>> draft.reset(rng)
    >>> tree_expand(torch.tensor([[[0.0, 9.0, 0.0, 0.0]]]), draft, 0, SamplingParams(), rng)
    >>> tree = tree_rerank(draft)
    >>> tree.layout.size.tolist(), tree.tokens[0, 0].item(), tree.logits.shape
    ([2], 1, torch.Size([1, 3, 4]))
    """
    if out is not None and out.round is not draft.round:
        raise ValueError("tree_rerank: out must come from an earlier call for the same draft")
    tokens, parents = draft.tokens, draft.parents
    if draft.shape.parents is None:
        parents = parents.new_empty(draft.batch, draft.shape.nodes)
        tokens = tokens.new_empty(parents.shape) if out is None else out.tokens
        call(
            "tree_rerank", backend, tokens=draft.tokens, parents=draft.parents, score=draft.score,
            out_tokens=tokens, out_parents=parents, node=torch.empty_like(parents),
        )  # fmt: skip
    layout = tree_layout(
        parents, position=position, out=None if out is None else out.layout, backend=backend
    )
    return out or _proposal(draft, tokens, layout)


def _proposal(draft: TreeDraft, tokens: Tensor, layout: TreeLayout) -> TreeProposal:
    stats = draft.stats
    if stats is None:
        stats = draft.score.new_zeros(draft.batch, draft.shape.nodes + 1, NUM_STATS)
    return TreeProposal(tokens, layout, draft.live, draft.round, draft.logits, stats)
