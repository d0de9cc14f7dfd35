"""Reference ``proposal_load``: take over drafts made elsewhere, cut where the arm would stop."""

from __future__ import annotations

import torch
from torch import Tensor

from .stats import OK, TOP1_PROB, process, row_stats_of
from .stop import BAD_LOGITS, MAX_LENGTH, NONE, RULE, Slot, rows_of_arm, should_stop


def proposal_load(
    source: Tensor,  # [B, N] i64 drafted ids
    source_length: Tensor | None,  # [B] i32
    logits: Tensor | None,  # [B, N, V]
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    arm: Tensor | None,
    memory: Tensor | None,
    max_length: Tensor,  # [B] i32
    tokens: Tensor,  # [B, K] i64, and everything below: written
    length: Tensor,
    active: Tensor,
    num_active: Tensor,
    stats: Tensor,
    stop_reason: Tensor,
) -> None:
    batch, columns = source.shape
    if source_length is None:
        source_length = (source < 0).cumsum(-1).eq(0).sum(-1)
    offered = source_length.clamp(0, columns)
    kind, param, mem = rows_of_arm(rule_kind, rule_param, memory, arm, batch, source.device)
    for j in range(min(columns, tokens.shape[1])):
        going = active & (j < offered) & (j < max_length)
        if logits is None:
            row = torch.zeros_like(stats[:, j])
            row[:, TOP1_PROB] = 1.0
            valid = torch.ones_like(active)
        else:
            processed = process(logits[:, j], temperature, top_k, top_p)
            row = row_stats_of(processed, source[:, j])
            valid = processed.status == OK
        kept = going & valid
        slot = Slot(length.double(), row.double(), stats[:, j - 1].double(), param, mem)
        stopped = should_stop(kind, slot)
        reason = torch.where(stopped, RULE, torch.where(j + 1 >= max_length, MAX_LENGTH, NONE))
        reason = torch.where(valid, reason, BAD_LOGITS)
        tokens[:, j] = torch.where(kept, source[:, j], tokens[:, j])
        stats[:, j] = torch.where(kept[:, None], row, stats[:, j])
        length.add_(kept)
        stop_reason.copy_(torch.where(going, reason, stop_reason))
        active.copy_(going & (reason == NONE))
    active.zero_()
    num_active.zero_()
