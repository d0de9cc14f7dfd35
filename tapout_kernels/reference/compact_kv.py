"""Reference ``compact_kv``: keys and values of the accepted path to the slots behind the prefix."""

from __future__ import annotations

import torch
from torch import Tensor


def compact_kv(
    path: Tensor,  # [B, N] i32
    num_accepted: Tensor,  # [B] i32
    start: Tensor,  # [B] i32, the slot of node 0
    block_table: Tensor | None,  # [B, M] i32, rows of cache
    cache: Tensor,  # [layers, 2, B, heads, slots, width], or pages for B; written
    length: Tensor | None,  # [B] i32; written
) -> None:
    batch, nodes = path.shape
    index = torch.arange(nodes, device=path.device)
    before = torch.nn.functional.pad(path[:, :-1], (1, 0), value=-1)
    leads = (index < num_accepted[:, None]) & (path > before) & (path < nodes)
    begin = start[:, None].long()
    to_row, to_slot, to_there = _locate(begin + index, block_table, cache)
    from_row, from_slot, from_there = _locate(begin + path, block_table, cache)
    moves = (leads & from_there & to_there).long().cumprod(-1).bool()
    # What does not move repeats a move that does (all of them read before they write), or, where
    # there is none, writes what is there.
    flat = moves.flatten()
    here = torch.where(flat, torch.arange(batch * nodes, device=path.device), flat.int().argmax())
    row = torch.where(moves, from_row, to_row).flatten()[here]
    slot = torch.where(moves, from_slot, to_slot).flatten()[here]
    entries = cache.view(torch.uint8)  # not every dtype can be indexed
    moved = entries[:, :, row, :, slot]
    entries[:, :, to_row.flatten()[here], :, to_slot.flatten()[here]] = moved
    if length is not None:
        length.copy_(start + moves.sum(-1))


def _locate(
    slot: Tensor, block_table: Tensor | None, cache: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N] rows of the cache and slots of them, 0 where there is no such slot, and where."""
    rows, slots = cache.shape[2], cache.shape[4]
    page = torch.div(slot, slots, rounding_mode="floor")
    if block_table is None:
        row = torch.arange(len(slot), device=slot.device)[:, None].expand_as(slot)
        there = page == 0
    else:
        there = (page >= 0) & (page < block_table.shape[1])
        row = block_table.gather(1, torch.where(there, page, 0)).long()
        there = there & (row >= 0) & (row < rows)
    return torch.where(there, row, 0), torch.where(there, slot % slots, 0), there
