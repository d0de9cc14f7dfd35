"""Dataclasses of tensors for trees of drafted tokens: layout, ragged masks, verdict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_NODES = 1024


@dataclass
class TreeLayout:
    """What :func:`tapout_kernels.tree_layout` says of B trees of up to N nodes.

    Row 0 of a tree is its root, the last token before the draft; row i + 1 is node i. Children
    of a row stand in the order of their indices, which is the order they were drawn in.

    Parameters
    ----------
    size : Tensor
        [B] int32, how many nodes there are; 0 where ``valid`` is False.
    valid : Tensor
        [B] bool, whether ``parents`` was a tree. Where it was not, there are no nodes.
    depth : Tensor
        [B, N] int32: 1 for a child of the root, 0 for an absent node.
    position_ids : Tensor
        [B, N+1] int64, ``position + depth`` of every row, the root's first; an absent node has
        the root's.
    first_child : Tensor
        [B, N+1] int32, the first child of every row, -1 if it has none.
    next_sibling : Tensor
        [B, N] int32, -1 for the last child.
    ancestors : Tensor
        [B, N, ceil(N/32)] int32: bit j & 31 of word j >> 5 is set iff j is the node itself or one
        of its ancestors. An absent node sees itself alone, so that no row of a mask is empty.
    """

    size: Tensor
    valid: Tensor
    depth: Tensor
    position_ids: Tensor
    first_child: Tensor
    next_sibling: Tensor
    ancestors: Tensor

    @property
    def batch(self) -> int:
        return self.depth.shape[0]

    @property
    def nodes(self) -> int:
        return self.depth.shape[1]

    @classmethod
    def empty(cls, batch: int, nodes: int, device: torch.device | str | None = None) -> TreeLayout:
        """Buffers for ``tree_layout(..., out=)``: trees without nodes.

        Raises
        ------
        ValueError
            If ``batch`` is not positive or ``nodes`` not in [1, 1024].

        Examples
        --------
        >>> TreeLayout.empty(2, 40).ancestors.shape
        torch.Size([2, 40, 2])
        """
        if batch < 1 or not 1 <= nodes <= MOST_NODES:
            raise ValueError(
                f"TreeLayout.empty: batch must be >= 1 and nodes in [1, {MOST_NODES}], "
                f"got {batch}, {nodes}"
            )

        def full(*shape: int, value: int = 0, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        return cls(
            size=full(batch),
            valid=full(batch, dtype=torch.bool),
            depth=full(batch, nodes),
            position_ids=full(batch, nodes + 1, dtype=torch.int64),
            first_child=full(batch, nodes + 1, value=-1),
            next_sibling=full(batch, nodes, value=-1),
            ancestors=full(batch, nodes, -(-nodes // 32)),
        )


@dataclass
class FlatMask:
    """Masks of a ragged batch one after the other, as FlashInfer and SGLang take them.

    Entry (q, k) of request b is number q (past[b] + Q) + k of its segment. The tensor is filled
    with ones here, once. ``tree_mask`` writes the Q x Q entries of every tree and turns those of
    the call before into ones again, so that no call fills a prefix, wherever it now ends.

    Parameters
    ----------
    data : Tensor
        [S] bool, or uint8 of eight entries each, the first in the lowest bit. What lies behind the
        last segment, and the bits that fill up the last byte of one, are ones.
    start : Tensor
        [B+1] int32, where each segment begins, in elements of ``data`` (FlashInfer's
        ``mask_indptr``).
    written : Tensor
        [B] int32, the past that ``data`` was last written for, -1: not yet.
    """

    data: Tensor
    start: Tensor
    written: Tensor

    @classmethod
    def empty(
        cls,
        batch: int,
        nodes: int,
        max_past: int,
        packed: bool,
        root: bool = False,
        device: torch.device | str | None = None,
    ) -> FlatMask:
        """Room for ``batch`` requests of up to ``max_past`` tokens before the tree.

        Parameters
        ----------
        batch, nodes, max_past : int
        packed : bool
            Eight entries to a byte (``flashinfer``), else one (``sglang_full``).
        root : bool
            Whether the root is fed with the nodes, so that Q = N + 1.
        device : torch.device or str, optional

        Raises
        ------
        ValueError
            If a size is negative or zero.

        Examples
        --------
        >>> FlatMask.empty(2, nodes=3, max_past=5, packed=True).data.shape
        torch.Size([6])
        """
        if batch < 1 or nodes < 1 or max_past < 0:
            raise ValueError(
                "FlatMask.empty: batch and nodes must be >= 1 and max_past >= 0, "
                f"got {batch}, {nodes}, {max_past}"
            )
        rows = nodes + root
        entries = rows * (max_past + rows)
        each = -(-entries // 8) if packed else entries
        ones = torch.full((batch * each,), 255, dtype=torch.uint8, device=device)
        return cls(
            data=ones if packed else ones.bool(),
            start=torch.zeros(batch + 1, dtype=torch.int32, device=device),
            written=torch.full((batch,), -1, dtype=torch.int32, device=device),
        )


@dataclass
class TreeVerdict:
    """What one verification of trees emitted.

    Parameters
    ----------
    tokens : Tensor
        [B, N+1] int64: the tokens of the accepted path, then one of the target; padded with -1.
    path : Tensor
        [B, N] int32 node indices of the accepted path from the root down, padded with -1.
    num_accepted, num_emitted : Tensor
        [B] int32. ``num_emitted = num_accepted + 1`` unless the row is invalid or not live.
    last_token : Tensor
        [B] int64, the last emitted token, 0 if none.
    status : Tensor
        [B] int32: OK 0, NAN 1, EMPTY 2 (of the target's row where the path ends), BAD_DRAFT 3 (the
        tree was not valid, or a child that was looked at cannot have been drawn, or is no id of
        the target).
    """

    tokens: Tensor
    path: Tensor
    num_accepted: Tensor
    num_emitted: Tensor
    last_token: Tensor
    status: Tensor

    @classmethod
    def empty(cls, batch: int, nodes: int, device: torch.device | str | None = None) -> TreeVerdict:
        """Buffers for ``tree_verify(..., out=)``; their contents are undefined until then.

        Examples
        --------
        >>> TreeVerdict.empty(2, nodes=4).tokens.shape
        torch.Size([2, 5])
        """

        def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            tokens=ints(batch, nodes + 1, dtype=torch.int64),
            path=ints(batch, nodes),
            num_accepted=ints(batch),
            num_emitted=ints(batch),
            last_token=ints(batch, dtype=torch.int64),
            status=ints(batch),
        )
