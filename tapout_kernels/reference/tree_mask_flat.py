"""Reference ``tree_mask_flat``: masks of a ragged batch one after the other, prefixes kept.

Entry (q, k) of request b is number q (past[b] + Q) + k of its segment; columns k < past[b] are the
prefix, which every row sees.  The tensor was all ones once; a call makes what the call before it
has written ones again and writes Q x Q entries of each request: no prefix is ever filled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tree import unpack_bits, visible_rows


def tree_mask_flat(
    ancestors: Tensor,  # [B, N, ceil(N/32)] i32
    past: Tensor,  # [B] i32
    root: bool,
    mask: Tensor,  # [S] bool, or u8 of eight entries each, the first in the lowest bit; written
    written: Tensor,  # [B] i32 past of the call before, -1: none; becomes this one's
    start: Tensor,  # [B+1] i32 where each segment begins, in elements of mask; written
) -> None:
    rows, packed = ancestors.shape[1] + root, mask.dtype == torch.uint8
    unit = 8 if packed else 1
    most = mask.shape[0] // ancestors.shape[0] * unit // rows - rows  # every request fits so much
    now = past.clamp(0, most)
    old, _ = _entries(written.clamp(0, most), rows, unit)
    place, begins = _entries(now, rows, unit)
    entries = mask
    if packed:
        entries = unpack_bits(mask[:, None].int(), 8).reshape(-1)
    entries[old] |= (written >= 0)[:, None, None]
    entries[place] = visible_rows(ancestors, rows)
    if packed:
        mask.copy_((entries.view(-1, 8).long() << torch.arange(8, device=mask.device)).sum(-1))
    written.copy_(now)
    start.copy_(begins)


def _entries(past: Tensor, rows: int, unit: int) -> tuple[Tensor, Tensor]:
    """[B, Q, Q] numbers of the entries of the trees, [B+1] elements where segments begin."""
    width = past.long() + rows
    elements = (rows * width + unit - 1) // unit
    start = torch.nn.functional.pad(elements.cumsum(0), (1, 0))
    index = torch.arange(rows, device=past.device)
    first = (start[:-1] * unit + past)[:, None, None]
    return first + index[:, None] * width[:, None, None] + index, start
