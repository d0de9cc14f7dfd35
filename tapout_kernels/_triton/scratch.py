"""Scratch for the rows of one launch, and the numbers its kernel is compiled for."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .core.sampling import GREEDY, GUMBEL
from .launch import Shape, Tuning, splits, tuning, workspace
from .params import Rules, Sampling
from .row import GROUP, RECORD, Scratch

_PRECISION = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}


class Rows(NamedTuple):
    """``count`` rows of one launch."""

    scratch: Scratch
    tickets: Tensor
    more: tuple[Tensor, ...]  # what was asked for beyond the rows
    splits: int
    programs: int
    constants: dict[str, int]  # compile-time numbers and the number of warps


def rows_of(
    count: int,
    logits: Tensor,
    sampling: Sampling,
    rule: int,
    tickets: int,
    more: tuple[Shape, ...] = (),
) -> Rows:
    """``logits`` [.., V] say the vocabulary, the dtype and the device."""
    plan, vocab = tuning(logits.device), logits.shape[-1]
    tiles, groups = triton.cdiv(vocab, plan.tile), plan.tile // GROUP.value
    shapes: list[Shape | None] = [((count, tiles, RECORD.value), torch.float32)]
    filters = rule != GREEDY.value and any(x is not None for x in sampling[1:])
    for dtype in (torch.float32, torch.int32, torch.float32):
        shapes.append(((count, tiles * groups), dtype) if filters else None)
    for dtype in (torch.float64, torch.int32):
        shapes.append(((count, tiles), dtype) if rule == GUMBEL.value else None)
    given = [shape for shape in shapes if shape is not None]
    space = workspace(logits.device, tickets, *given, *more)
    arrays = iter(space.arrays)
    scratch = Scratch(*(None if shape is None else next(arrays) for shape in shapes))
    share = splits(count, vocab, plan)
    return Rows(
        scratch, space.tickets, tuple(arrays), share, count * share, constants(plan, logits.dtype)
    )


def constants(plan: Tuning, dtype: torch.dtype) -> dict[str, int]:
    return {
        "TILE": plan.tile, "PRECISION": _PRECISION[dtype], "PIVOTS": plan.pivots,
        "LISTED": plan.listed, "warps": plan.warps,
    }  # fmt: skip


def layout(logits: Tensor) -> tuple[int, int, int]:
    """Batch stride, row stride and width of [B, rows, V] or, without a batch, [rows, V]."""
    return logits.stride(0) if logits.dim() == 3 else 0, logits.stride(-2), logits.shape[-1]


def mask_layout(token_mask: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if token_mask is None else layout(token_mask)


def draft_layout(logits: Tensor | None) -> tuple[int, int, int, int]:
    """Batch stride, row stride, rows, vocabulary."""
    if logits is None:
        return 0, 0, 0, 0
    return logits.stride(0), logits.stride(1), logits.shape[0], logits.shape[2]


def rules_layout(rules: Rules) -> tuple[int, int]:
    """Arms of the table, and the slots that have an arm of their own."""
    if rules.kind is None or rules.arm is None:
        return 0, 1
    return rules.kind.shape[0], rules.arm.shape[1] if rules.arm.dim() == 2 else 1
