"""Drafted trees: the token of every node, and the statistics verification needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._check import check, require_tensor
from .backends import call
from .draft_vocab import DraftVocab, vocab_tables
from .reference.rows import StateRows
from .tree import TreeLayout
from .types import NUM_STATS, RngState, SamplingParams, require_rows


@dataclass
class TreeProposal:
    """Drafted trees of up to N nodes for each of B requests, as :class:`Proposal` is for chains.

    Parameters
    ----------
    tokens : Tensor
        [B, N] int64 target ids, the token of every node.
    layout : TreeLayout
    live : Tensor
        [B] bool; False is a padding row: no state of it changes.
    round : Tensor
        [B] int64, the round it was drafted in, part of every random address.
    logits : Tensor or None
        [B, N+1, D] raw draft logits in their own dtype, -inf where masked: row r is what the
        children of row r were drawn from. None: every child is one-hot.
    stats : Tensor
        [B, N+1, 8] float32, as :class:`Proposal` has them, of every row with children;
        token_logprob is that of its first child. NaN where nothing can have been drawn.
    logits_row : Tensor or None
        [B] int32. An engine that keeps draft logits per request slot sets ``logits`` to its
        [R, N+1, D] and this to the slot of each batch row, each a different one. None: row b.
    """

    tokens: Tensor
    layout: TreeLayout
    live: Tensor
    round: Tensor
    logits: Tensor | None
    stats: Tensor
    logits_row: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    @property
    def nodes(self) -> int:
        return self.tokens.shape[1]

    @classmethod
    def from_tokens(
        cls,
        tokens: Tensor,
        layout: TreeLayout,
        rng: RngState,
        logits: Tensor | None = None,
        sampling: SamplingParams | None = None,
        vocab: DraftVocab | None = None,
        token_mask: Tensor | None = None,
        live: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        backend: str | None = None,
    ) -> TreeProposal:
        """Take over trees drafted elsewhere and begin a round.

        Parameters
        ----------
        tokens : Tensor
            [B, N] int64 target ids; those of absent nodes are not looked at.
        layout : TreeLayout
            Of the trees. Where it is not valid the tree has no nodes: ``tree_verify`` emits one
            token and reports BAD_DRAFT.
        rng : RngState
            ``rng.round`` of live rows advances by one.
        logits : Tensor, optional
            [B, N+1, D] raw logits: the children of row r (0: the root, i + 1: node i) were *drawn
            without replacement under* ``sampling`` from row r, in the order of their indices.
            Which rows have how many children must not depend on what was drawn, nor may children
            be reordered or dropped by their probability: neither is lossless. Rows without
            children are not looked at. Without logits every child is one-hot: the drafter would
            have proposed exactly these tokens (top-k children, prompt lookup).
        sampling : SamplingParams, optional
            Required with ``logits``: the very parameters the drafter drew with.
        vocab : DraftVocab, optional
            The draft vocabulary of ``logits``; ``tokens`` are target ids always.
        token_mask : Tensor, optional
            [B, N+1, ceil(V/32)] int32, the mask the drafter drew under, bit 1 = allowed target
            id. Masked entries of ``logits`` are set to -inf in place in rows with children. Only
            with ``logits``.
        live : Tensor, optional
            [B] bool. None: every row.
        rows : Tensor, optional
            [B] int32, the row of ``rng`` and ``sampling`` that belongs to each batch row; one
            outside them is not live. None: row b.
        backend : str, optional
            Of the operator ``proposal_load``, which computes the statistics.

        Raises
        ------
        TypeError, ValueError
            For a tensor of the wrong dtype, shape, device or layout; nothing is written.

        Examples
        --------
        >>> layout = tree_layout(torch.tensor([[-1, -1, 0]], dtype=torch.int32))
        >>> tree = TreeProposal.from_tokens(torch.tensor([[5, 7, 6]]), layout, RngState.of(0))
        >>> tree.input_ids(torch.tensor([3])).tolist()
        [[3, 5, 7, 6]]
        """
        _require_tree(tokens, layout)
        batch, nodes = tokens.shape
        if live is None:
            live = torch.ones(batch, dtype=torch.bool, device=tokens.device)
        require_rows("TreeProposal.from_tokens", layout.size, torch.bool, live=live)
        if logits is not None and sampling is None:
            raise ValueError(
                "TreeProposal.from_tokens: sampling must be given with logits, got None"
            )
        if logits is None and token_mask is not None:
            raise ValueError(
                "TreeProposal.from_tokens: token_mask must be None without logits, got a Tensor"
            )
        state = StateRows(rows, rng.round.shape[0], tokens.device)
        if rows is None and rng.round.shape[0] != batch:
            raise ValueError(
                f"TreeProposal.from_tokens: rng must have {batch} rows, got {rng.round.shape[0]}"
            )
        stats = torch.zeros(batch, nodes + 1, NUM_STATS, device=tokens.device)
        if logits is not None:
            stats.fill_(torch.nan)
            _row_statistics(
                tokens, layout, logits, sampling, vocab, token_mask, rng, state, stats, backend
            )
        live = live & state.known
        taken = state.of(rng.round)
        state.add(rng.round, live)
        return cls(tokens, layout, live, taken.clone(), logits, stats)

    def input_ids(self, last_token: Tensor, vocab: int | None = None) -> Tensor:
        """[B, N+1] int64 for the target's verify forward: the root's token, then the nodes'.

        Parameters
        ----------
        last_token : Tensor
            [B] int64, the token before the draft; absent nodes repeat it.
        vocab : int, optional
            Drafted ids from here up are replaced too: an embedding would read out of bounds.

        Raises
        ------
        TypeError, ValueError
            For a ``last_token`` of the wrong dtype or shape.
        """
        require_rows("TreeProposal.input_ids", self.tokens, torch.int64, last_token=last_token)
        last = last_token[:, None]
        index = torch.arange(self.nodes, device=last.device)
        unusable = (self.tokens < 0) | (index >= self.layout.size[:, None])
        if vocab is not None:
            unusable = unusable | (self.tokens >= vocab)
        return torch.cat([last, torch.where(unusable, last, self.tokens)], dim=1)


def _require_tree(tokens: Tensor, layout: TreeLayout) -> None:
    op = "TreeProposal.from_tokens"
    require_tensor(op, "tokens", tokens)
    if tokens.dtype != torch.int64:
        raise TypeError(f"{op}: tokens must be int64, got {str(tokens.dtype).split('.')[-1]}")
    expected = [layout.batch, layout.nodes]
    if list(tokens.shape) != expected:
        raise ValueError(f"{op}: tokens must be {expected}, got {list(tokens.shape)}")
    if tokens.device != layout.size.device:
        raise ValueError(f"{op}: tokens must be on {layout.size.device}, got {tokens.device}")


def _row_statistics(
    tokens: Tensor, layout: TreeLayout, logits: Tensor, sampling: SamplingParams,
    vocab: DraftVocab | None, token_mask: Tensor | None, rng: RngState, state: StateRows,
    stats: Tensor, backend: str | None,
) -> None:  # fmt: skip
    """Every row as a draft of one slot that holds its first child, or nothing."""
    op = "TreeProposal.from_tokens"
    batch, rows = layout.first_child.shape
    for name, value in {"logits": logits, "token_mask": token_mask}.items():
        if value is None:
            continue
        require_tensor(op, name, value)
        if value.dim() != 3 or value.shape[:2] != (batch, rows) or not value.is_contiguous():
            raise ValueError(
                f"{op}: {name} must be contiguous [{batch}, {rows}, ...], got {list(value.shape)}"
            )
    first = layout.first_child
    source = torch.where(first >= 0, tokens.gather(1, first.clamp(min=0).long()), -1)
    each = batch * rows
    d2t, t2d = vocab_tables(op, vocab)
    for name, value in sampling.arguments().items():
        if value is not None:
            require_rows(op, rng.round, value.dtype, **{name: value})
    none = torch.zeros(each, dtype=torch.int32, device=tokens.device)
    owner = torch.where(state.known, state.index, -1).int().repeat_interleave(rows)
    arguments = dict(
        source=source.view(each, 1), source_length=None, logits=logits.view(each, 1, -1),
        **sampling.arguments(), d2t=d2t, t2d=t2d,
        token_mask=None if token_mask is None else token_mask.view(each, 1, -1), rows=owner,
        rule_kind=None, rule_param=None, arm=None, memory=None,
        max_length=none + 1, tokens=torch.full_like(source.view(each, 1), -1), length=none.clone(),
        active=none > -1, num_active=none[:1].clone(), stats=stats.view(each, 1, -1),
        stop_reason=none.clone(),
    )  # fmt: skip
    check("proposal_load", arguments)
    call("proposal_load", backend, **arguments)
