"""``tree_expand``: one level of drafted trees from the draft's logits."""

from __future__ import annotations

from torch import Tensor

from ..backends import call
from ..draft_vocab import DraftVocab, vocab_tables
from ..tree_draft import TreeDraft
from ..types import RngState, SamplingParams


def tree_expand(
    logits: Tensor,  # [B, W, D]
    draft: TreeDraft,
    level: int,
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    vocab: DraftVocab | None = None,
    token_mask: Tensor | None = None,  # [B, W, ceil(V/32)]
    threshold: Tensor | None = None,  # [B]
    rows: Tensor | None = None,  # [B]
    next_token: Tensor | None = None,  # [B, W']
    backend: str | None = None,
) -> Tensor | None:
    r"""Give the rows of a level their children and choose the rows of the next.

    Deterministic children are the row's most probable ids, in that order (EAGLE-2, 2406.16858).
    Drawn ones come without replacement: each by the inverse CDF from what its earlier siblings
    have left of p_draft, with the noise of its node. That is the law of Gumbel-top-k, and where
    every row has one child, ``draft_step``'s draft, bit for bit.

    A node's score is the sum of ln p down to it. Where the shape is dynamic, the nodes of the best
    scores of this level are expanded next.

    Parameters
    ----------
    logits : Tensor
        [B, W, D] float32, bfloat16 or float16, any strides over the first two dimensions: row w
        scores what follows node ``draft.beam[level][:, w]``.
    draft : TreeDraft
        After :meth:`TreeDraft.reset` and the levels before this one. It is changed in place.
    level : int
        0 for the root's children, then one more with every call.
    sampling : SamplingParams or None
        What drawn children are drawn under, and ``tree_verify`` takes for their law. None with
        deterministic ones: they are ranked by softmax(logits).
    rng : RngState
        Its seeds; nothing of it changes.
    vocab : DraftVocab, optional
        Of ``logits``; tokens are target ids always.
    token_mask : Tensor, optional
        [B, W, ceil(V/32)] int32, bit 1 = allowed target id.
    threshold : Tensor, optional
        [B] float32, the stop rule ``depth_logsumexp`` (Dynamic Depth Decoding, 2409.00142): a tree
        stops growing after this level where the logsumexp of the scores of the next level's rows is
        below it. Give it at the depths it is to be asked at. What was drafted stays.
    rows : Tensor, optional
        [B] int32, the row of ``sampling`` and ``rng`` that belongs to each batch row; one outside
        them is not live. None: row b.
    next_token : Tensor, optional
        [B, W'] int64, the buffer to return.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    Tensor or None
        [B, W'] int64, what the draft model is to be fed next, for the nodes
        ``draft.beam[level + 1]``, which hang on rows ``draft.parent_row[level + 1]`` of this
        level; 0 where there is no row. None at the last level.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout, a level the shape has not, or
        ``sampling`` missing for drawn children or given for others; nothing is written.

    Notes
    -----
    Nothing is read by the host: a tree that has stopped costs a launch, no more. A row of fewer
    allowed ids than children, or of NaN, leaves the rest of its children without a token.

    Examples
    --------
    >>> rng, shape = RngState.of(seeds=0), TreeShape.dynamic(depth=2, top_k=2, nodes=3)
    >>> draft = TreeDraft.empty(1, shape)
    >>> draft.reset(rng)
    >>> logits = torch.tensor([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]]).log()
    >>> tree_expand(logits[None, :1], draft, 0, None, rng).tolist()
    [[1, 2]]
    >>> tree_expand(logits[None, 1:], draft, 1, None, rng)
    >>> draft.tokens.tolist(), draft.parents.tolist()
    ([[1, 2, 0, 1, 2, 1]], [[-1, -1, 0, 0, 1, 1]])
    >>> tree = tree_rerank(draft)
    >>> tree.tokens.tolist(), tree.layout.depth.tolist()
    ([[1, 2, 0]], [[1, 1, 2]])
    """
    depth = draft.shape.depth
    if not isinstance(level, int) or not 0 <= level < depth:
        raise ValueError(f"tree_expand: level must be in [0, {depth}), got {level!r}")
    drawn, last = draft.logits is not None, level + 1 == depth
    if drawn != (sampling is not None):
        expected = "given for drawn children" if drawn else "None for deterministic children"
        got = "a SamplingParams" if sampling is not None else "None"
        raise ValueError(f"tree_expand: sampling must be {expected}, got {got}")
    following = None if last else draft.beam[level + 1]
    if next_token is None and not last:
        next_token = draft.tokens.new_zeros(following.shape)
    call(
        "tree_expand", backend, logits=logits, **(sampling or SamplingParams()).arguments(),
        token_mask=token_mask, d2t=vocab_tables("tree_expand", vocab)[0], seed=rng.seed, rows=rows,
        round=draft.round, beam=draft.beam[level], child_start=draft.child_start[level],
        next_node=draft.next_node[level], threshold=threshold,
        children=draft.shape.levels[level].children, drawn=drawn, active=draft.active,
        depth=draft.depth, tokens=draft.tokens, parents=draft.parents, score=draft.score,
        kept_logits=draft.logits, stats=draft.stats, next_beam=following,
        next_row=None if last else draft.parent_row[level + 1],
        next_token=None if last else next_token,
    )  # fmt: skip
    return None if last else next_token
