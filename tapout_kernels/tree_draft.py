"""Trees while they are drafted, a level at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .reference.rows import StateRows
from .reference.tree import ABSENT, ROOT
from .tree_shape import TreeShape
from .types import NUM_STATS, RngState, require_rows


@dataclass
class TreeDraft:
    """B trees that :func:`tapout_kernels.tree_expand` grows, of one shape.

    Parameters
    ----------
    shape : TreeShape
    tokens : Tensor
        [B, M] int64 target ids of the candidates, in the order of the shape; -1 where there is
        none (yet).
    parents : Tensor
        [B, M] int32 candidates, -1 the root, -2 not drafted.
    score : Tensor
        [B, M] float32, ln of the product of the draft's probabilities down from the root; -inf
        where there is no token.
    active : Tensor
        [B] bool, whether the tree still grows.
    depth : Tensor
        [B] int32, levels it has.
    live : Tensor
        [B] bool; False is a padding row: no state of it changes.
    round : Tensor
        [B] int64, the round it is drafted in, part of every random address.
    beam : tuple of Tensor
        For each level [B, W] int32: the node of each row of logits, -1 the root, -2 no row.
    parent_row : tuple of Tensor
        For each level [B, W] int32: the row of the level before that the node hangs on, for
        whoever gathers hidden states.
    child_start : tuple of Tensor
        For each level [W+1] int32, as :class:`TreeLevel` has it.
    next_node : tuple of (Tensor or None)
        For each level [W] int32, the rows of the one after it, where the shape is static.
    logits : Tensor or None
        [B, M+1, D] of drawn children, as :class:`TreeProposal` has them. None: deterministic.
    stats : Tensor or None
        [B, M+1, 8] float32, with ``logits``.
    """

    shape: TreeShape
    tokens: Tensor
    parents: Tensor
    score: Tensor
    active: Tensor
    depth: Tensor
    live: Tensor
    round: Tensor
    beam: tuple[Tensor, ...]
    parent_row: tuple[Tensor, ...]
    child_start: tuple[Tensor, ...]
    next_node: tuple[Tensor | None, ...]
    logits: Tensor | None
    stats: Tensor | None

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    @classmethod
    def empty(
        cls,
        batch: int,
        shape: TreeShape,
        vocab: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> TreeDraft:
        """Buffers for trees of a shape.

        Parameters
        ----------
        batch : int
        shape : TreeShape
        vocab : int, optional
            D, the draft's vocabulary: children are drawn without replacement, and what they were
            drawn from is kept. None: they are the most probable ids.
        dtype : torch.dtype, optional
            Of the kept logits, with ``vocab``. None: float32.
        device : torch.device or str, optional

        Raises
        ------
        ValueError
            If a size is not positive, or ``vocab`` is given with a dynamic shape.

        Examples
        --------
        >>> draft = TreeDraft.empty(2, TreeShape.static([-1, -1, 0]), vocab=50)
        >>> draft.tokens.shape, draft.logits.shape
        (torch.Size([2, 3]), torch.Size([2, 4, 50]))
        """
        if batch < 1 or (vocab is not None and vocab < 1):
            raise ValueError(f"TreeDraft.empty: sizes must be >= 1, got {batch}, {vocab}")
        if vocab is not None and shape.parents is None:
            raise ValueError(
                "TreeDraft.empty: vocab must be None with a dynamic shape, got "
                f"{vocab}: which children stay would depend on the probability of what was drawn, "
                "and the target's law would be lost; drawn children need a static shape"
            )

        def full(*size: int, value: float = 0, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.full(size, value, dtype=dtype, device=device)

        def table(values: tuple[int, ...] | None) -> Tensor | None:
            return None if values is None else torch.tensor(values, device=device).int()

        count, drawn = shape.candidates, vocab is not None
        return cls(
            shape=shape,
            tokens=full(batch, count, value=-1, dtype=torch.int64),
            parents=full(batch, count, value=ABSENT),
            score=full(batch, count, value=-torch.inf, dtype=torch.float32),
            active=full(batch, dtype=torch.bool),
            depth=full(batch),
            live=full(batch, dtype=torch.bool),
            round=full(batch, dtype=torch.int64),
            beam=tuple(full(batch, level.rows, value=ROOT) for level in shape.levels),
            parent_row=tuple(full(batch, level.rows) for level in shape.levels),
            child_start=tuple(table(level.child_start) for level in shape.levels),
            next_node=(*(table(level.nodes) for level in shape.levels[1:]), None),
            logits=full(batch, count + 1, vocab, dtype=dtype or torch.float32) if drawn else None,
            stats=full(batch, count + 1, NUM_STATS, value=torch.nan, dtype=torch.float32)
            if drawn
            else None,
        )

    def reset(
        self, rng: RngState, live: Tensor | None = None, *, rows: Tensor | None = None
    ) -> None:
        """Begin a round: no nodes, live rows active, ``rng.round`` of live rows advanced by one.

        Parameters
        ----------
        rng : RngState
        live : Tensor, optional
            [B] bool. None: every row.
        rows : Tensor, optional
            [B] int32, the row of ``rng`` that belongs to each batch row; one outside it is not
            live. None: row b.

        Raises
        ------
        TypeError, ValueError
            For a tensor of the wrong dtype, shape or device; nothing is written.

        Examples
        --------
        >>> draft, rng = TreeDraft.empty(2, TreeShape.static([-1])), RngState.of([5, 6])
        >>> draft.reset(rng, live=torch.tensor([True, False]))
        >>> draft.active.tolist(), rng.round.tolist()
        ([True, False], [1, 0])
        """
        if live is None:
            live = torch.ones_like(self.live)
        require_rows("TreeDraft.reset", self.live, torch.bool, live=live)
        if rows is not None:
            require_rows("TreeDraft.reset", self.live, torch.int32, rows=rows)
        if rows is None and rng.round.shape[0] != self.batch:
            raise ValueError(
                f"TreeDraft.reset: rng must have {self.batch} rows, got {rng.round.shape[0]}"
            )
        state = StateRows(rows, rng.round.shape[0], self.tokens.device)
        self.live.copy_(live & state.known)
        self.round.copy_(state.of(rng.round))
        state.add(rng.round, self.live)
        self.active.copy_(self.live)
        self.depth.zero_()
        self.tokens.fill_(-1)
        self.parents.fill_(ABSENT)
        self.score.fill_(-torch.inf)
