"""``tree_verify``: lossless verification of drafted trees against target logits."""

from __future__ import annotations

from torch import Tensor

from ..backends import call, without_gpu
from ..draft_vocab import DraftVocab, vocab_tables
from ..reference.tree import TREE_RULES
from ..tree import TreeVerdict
from ..tree_proposal import TreeProposal
from ..types import RngState, SamplingParams


def tree_verify(
    target_logits: Tensor,  # [B, N+1, V]
    proposal: TreeProposal,
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    rule: str = "tree_token",
    vocab: DraftVocab | None = None,
    token_mask: Tensor | None = None,  # [B, N+1, ceil(V/32)]
    rows: Tensor | None = None,  # [B]
    out: TreeVerdict | None = None,
    backend: str | None = None,
) -> TreeVerdict:
    r"""Accept a path of every tree and emit one more token, exactly as the target would.

    Rule ``tree_token`` (SpecInfer 2305.09781, Sequoia 2402.12374) is multi-round rejection without
    replacement. The children of a row are looked at in the order they were drawn; child c with
    token x is accepted iff :math:`u_c \, p_{draft}(x) < p_{target}(x)`. After a rejection
    :math:`p_{target} \leftarrow norm[p_{target} - p_{draft}]_+`, and p_draft loses x and is
    renormalised; where nothing is left of it no further child is looked at. An accepted child's
    row is next; if no child is accepted, the token is drawn from what p_target has become.

    Rows of branches that were rejected are not read: the cost goes with the length of the path.

    Rule ``tree_traversal`` (Traversal Verification 2505.12398) is rule ``block`` of ``verify`` for
    trees, and accepts at least as many tokens on average. It looks at leaves first. A child is
    reached with the weight :math:`w = \min(1, w' p_{target}(x) / p_{draft}(x))` of what its row
    has left, and a node all of whose children were rejected is accepted, with all that lead to it,
    iff :math:`u < w`; rejected, it leaves its row
    :math:`[w p_{target} - p_{draft}]_+ / (1 - \sum \min(w p_{target}, p_{draft}))`, and the sum of
    that as weight. All rows with children may be read, some again for each of them.

    Parameters
    ----------
    target_logits : Tensor
        [B, N+1, V] float32, bfloat16 or float16, any strides over the first two dimensions, last
        dimension contiguous. Row 0 scores the token after the root, row i + 1 that after node i.
    proposal : TreeProposal
        Carries the tokens, their layout, their draft distributions and the round.
    sampling : SamplingParams or None
        Of the target; the draft's own travel with the proposal.
    rng : RngState
        ``position`` of live rows advances by ``num_emitted``.
    rule : {"tree_token", "tree_traversal", "tree_gumbel", "tree_greedy"}
        ``tree_gumbel`` goes down to the first child that equals the argmax of z/T + G and
        ``tree_greedy`` to the first that equals the argmax, whatever the draft's distribution.
    vocab : DraftVocab, optional
        The vocabulary of the proposal's logits.
    token_mask : Tensor, optional
        [B, N+1, ceil(V/32)] int32, one row for each row of logits: bit 1 = allowed.
    rows : Tensor, optional
        [B] int32, the row of ``sampling`` and ``rng`` that belongs to each batch row; one outside
        them counts as not live. None: row b.
    out : TreeVerdict, optional
        Buffers to write, see :meth:`TreeVerdict.empty`.
    backend : {"reference", "cpu", "triton", "cuda"}, optional
        Triton and CUDA have no kernel of ``tree_traversal``; on a GPU the reference is its default.

    Returns
    -------
    TreeVerdict
        A request whose row is NaN, +inf or all -inf where the path ends emits what was accepted
        before it and reports NAN or EMPTY. A child that was looked at and cannot have been drawn
        (an id outside [0, V), one of draft probability 0, one a sibling has already) ends the
        children of its row and reports BAD_DRAFT. No id outside [0, V) is ever emitted.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Notes
    -----
    Determinism: a row's result depends on that row alone, bit for bit. A tree that is a chain
    (node i hangs on node i - 1) emits what ``verify`` emits with rule ``token``, ``block``,
    ``gumbel`` or ``greedy``.

    Examples
    --------
    >>> rng = RngState.of(seeds=0)
    >>> layout = tree_layout(torch.tensor([[-1, -1, 1]], dtype=torch.int32))
    >>> tree = TreeProposal.from_tokens(torch.tensor([[2, 1, 0]]), layout, rng)
    >>> logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 0, 2]]), 3) * 100.0
    >>> found = tree_verify(logits, tree, SamplingParams(), rng, rule="tree_greedy")
    >>> found.tokens.tolist(), found.path.tolist()
    ([[1, 0, 2, -1]], [[1, 2, -1]])
    """
    if rule not in TREE_RULES:
        raise ValueError(f"tree_verify: rule must be one of {', '.join(TREE_RULES)}, got {rule!r}")
    if out is None:
        out = TreeVerdict.empty(proposal.batch, proposal.nodes, device=proposal.tokens.device)
    if rule == "tree_traversal":
        backend = without_gpu("tree_verify", f"rule {rule}", backend, proposal.tokens.device)
    layout, keeps = proposal.layout, proposal.logits is not None
    call(
        "tree_verify", backend, target_logits=target_logits,
        **(sampling or SamplingParams()).arguments(), token_mask=token_mask, seed=rng.seed,
        rows=rows, draft_tokens=proposal.tokens, first_child=layout.first_child,
        next_sibling=layout.next_sibling, valid=layout.valid, live=proposal.live,
        round=proposal.round, draft_logits=proposal.logits,
        logits_row=proposal.logits_row if keeps else None,
        t2d=vocab_tables("tree_verify", vocab)[1] if keeps else None, stats=proposal.stats,
        rule=TREE_RULES[rule], position=rng.position, **vars(out),
    )  # fmt: skip
    return out
