"""Reference ``tree_attention``: new tokens over what was before them and over their own tree."""

from __future__ import annotations

import torch
from torch import Tensor

from .tree import unpack_bits


def tree_attention(
    query: Tensor,  # [B, heads, N, D]
    keys: Tensor,  # [B or pages, kv_heads, slots, D]
    values: Tensor,  # as keys
    past: Tensor,  # [B] i32
    block_table: Tensor | None,  # [B, table_pages] i32
    tree_mask: Tensor | None,  # [B, N, ceil(among/32)] i32
    among: int,
    scale: float,
    mixed: Tensor,  # [B, heads, N, D], written
) -> None:
    batch, heads, tokens, _ = query.shape
    keys, there = _of_requests(keys, block_table, batch)
    values, _ = _of_requests(values, block_table, batch)
    if tree_mask is None:
        token = torch.arange(tokens, device=past.device)
        own = (token <= token[:, None]).expand(batch, -1, -1)
    else:
        own = unpack_bits(tree_mask, among)
    seen = _seen(past, keys.shape[2], own) & there[:, None]  # [B, N, S]
    group = heads // keys.shape[1]
    keys, values = (x.double().repeat_interleave(group, dim=1) for x in (keys, values))
    scores = query.double() * scale @ keys.mT
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    weights = weights.masked_fill(~seen.any(-1)[:, None, :, None], 0.0)  # where nothing is seen
    mixed.copy_(weights @ values.masked_fill(~seen.any(1)[:, None, :, None], 0.0))


def _of_requests(entries: Tensor, block_table: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
    """[B, kv_heads, S, D], and [B, S] whether a slot is in a page that there is."""
    if block_table is None:
        shape = (batch, entries.shape[2])
        return entries, torch.ones(shape, dtype=torch.bool, device=entries.device)
    there = (block_table >= 0) & (block_table < entries.shape[0])
    pages = entries[block_table.long().where(there, 0)]  # [B, T, kv_heads, page, D]
    pages = pages.masked_fill(~there[..., None, None, None], 0.0)
    return pages.transpose(1, 2).flatten(2, 3), there.repeat_interleave(entries.shape[2], dim=1)


def _seen(past: Tensor, slots: int, own: Tensor) -> Tensor:
    """[B, N, S]: the slots before the tree, and those of it that a token sees, of [B, N, among]."""
    tokens, among = own.shape[1:]
    behind = torch.arange(slots, device=past.device) - past.clamp(0, slots)[:, None]  # [B, S]
    index = behind.clamp(0, among - 1)[:, None].expand(-1, tokens, -1)
    return (behind < 0)[:, None] | own.gather(2, index) & (behind < among)[:, None]
