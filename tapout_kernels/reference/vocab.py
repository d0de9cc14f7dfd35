"""Ids: target ids, the ids of a draft vocabulary, and what a token mask allows."""

from __future__ import annotations

import torch
from torch import Tensor


def target_ids(d2t: Tensor | None, vocab: int, device: torch.device) -> Tensor:
    """[D] i64: the target id of every draft id."""
    return torch.arange(vocab, device=device) if d2t is None else d2t.long()


def draft_ids(target_id: Tensor, t2d: Tensor | None) -> Tensor:
    """The draft id of each target id, -1 where it has none."""
    if t2d is None:
        return target_id
    known = (target_id >= 0) & (target_id < t2d.shape[0])
    return torch.where(known, t2d[torch.where(known, target_id, 0)].long(), -1)


def allowed_ids(token_mask: Tensor | None, ids: Tensor) -> Tensor | None:
    """[..., W] i32 bits over target ids, [D] target ids -> [..., D] bool; None: all allowed."""
    if token_mask is None:
        return None
    word = ids >> 5
    bits = token_mask[..., word.clamp(max=token_mask.shape[-1] - 1)] >> (ids & 31)
    return (bits & 1).bool() & (word < token_mask.shape[-1])
