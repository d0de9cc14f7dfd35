"""``tree_attention``: the attention of verification, over a cache and the bits of a tree."""

from __future__ import annotations

import torch
from torch import Tensor

from .._check import require_tensor
from ..backends import call

MOST_HEAD_DIM = 256


def tree_attention(
    query: Tensor,  # [B, heads, N, D]
    keys: Tensor,  # [B, kv_heads, slots, D], or [pages, kv_heads, page, D]
    values: Tensor,
    past: Tensor,  # [B]
    tree_mask: Tensor | None = None,  # [B, N, ceil(among/32)]
    *,
    among: int | None = None,
    block_table: Tensor | None = None,  # [B, table_pages]
    scale: float | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention of N new tokens over the tokens before them and over those of their own tree.

    The cache holds the keys and values of the tree already, from slot ``past[b]`` on: those of the
    new tokens and, where a tree grows level by level, those of the levels before. Each token sees
    all slots before ``past[b]``, and of the tree's those whose bit is set. Query heads share the
    keys of their group (heads / kv_heads of them).

    Parameters
    ----------
    query : Tensor
        [B, heads, N, D] float32, bfloat16 or float16, D at most 256. Any strides but a contiguous
        last dimension, here and below: views of a fused projection need no copy.
    keys, values : Tensor
        [B, kv_heads, slots, D] of the query's dtype, slots at least ``past[b] + among``; what lies
        beyond is not seen. With ``block_table``: pages [pages, kv_heads, page, D].
    past : Tensor
        [B] int32, tokens of each request before the tree.
    tree_mask : Tensor, optional
        [B, N, ceil(among/32)] int32: bit k & 31 of word k >> 5 of row q says that new token q sees
        slot ``past[b] + k``. ``tree_mask(layout, "bits", root=True)`` makes it where a whole tree
        is fed with its root. None: a chain of N, each sees those up to itself.
    among : int, optional
        Slots of the tree that the mask is about; N if None.
    block_table : Tensor, optional
        [B, table_pages] int32: the page of each ``page`` slots of a request. Slots of a page that
        does not exist are not seen.
    scale : float, optional
        Of the scores, 1/sqrt(D) if None.
    out : Tensor, optional
        As ``query``.
    backend : {"reference", "cpu", "triton"}, optional
        CUDA has no kernel of it yet.

    Returns
    -------
    Tensor
        [B, heads, N, D]: softmax(scale · query · keys) · values over what is seen, summed in
        float32; zeros for a token that sees nothing. A token's numbers depend neither on how many
        others are fed with it nor on what it does not see, as long as that is finite. On the CPU
        a node has the bits that its path alone would have; with Triton, whose tiles lie at fixed
        slots, it has those within the accuracy of the dtype.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Examples
    --------
    >>> query = torch.ones(1, 2, 2, 16)  # two new tokens after one
    >>> keys, values = torch.ones(1, 1, 3, 16), torch.arange(48.0).view(1, 1, 3, 16)
    >>> tree_attention(query, keys, values, torch.tensor([1], dtype=torch.int32))[0, 0, :, 0]
    tensor([ 8., 16.])
    """
    require_tensor("tree_attention", "query", query)
    require_tensor("tree_attention", "keys", keys)
    if tree_mask is not None:
        require_tensor("tree_attention", "tree_mask", tree_mask)
    if query.dim() != 4 or not 1 <= query.shape[3] <= MOST_HEAD_DIM:
        raise ValueError(
            f"tree_attention: query must be [B, heads, N, D <= {MOST_HEAD_DIM}], "
            f"got {list(query.shape)}"
        )
    if keys.dim() == 4 and query.shape[1] % max(keys.shape[1], 1):
        raise ValueError(
            f"tree_attention: keys must be of a number of heads that divides {query.shape[1]}, "
            f"got {keys.shape[1]}"
        )
    among = query.shape[2] if among is None or tree_mask is None else among
    if tree_mask is not None and tree_mask.shape[-1:] != (-(-among // 32),):
        raise ValueError(
            f"tree_attention: tree_mask must be [B, N, {-(-among // 32)}], "
            f"got {list(tree_mask.shape)}"
        )
    if out is None:
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    call(
        "tree_attention", backend, query=query, keys=keys, values=values, past=past,
        block_table=block_table, tree_mask=tree_mask, among=among, scale=scale, mixed=out,
    )  # fmt: skip
    return out
