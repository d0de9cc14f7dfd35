"""Reference ``proposal_load``: take over drafts made elsewhere, cut where the arm would stop."""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import StateRows
from .stats import OK, TOP1_PROB, Sampling, process, row_stats_of
from .stop import BAD_LOGITS, MAX_LENGTH, NONE, RULE, Rules, Slot, arm_of_slot, should_stop
from .vocab import allowed_ids, draft_ids, target_ids


def proposal_load(
    source: Tensor,  # [B, N] i64 drafted ids
    source_length: Tensor | None,  # [B] i32
    logits: Tensor | None,  # [B, N, D], masked in place
    temperature: Tensor | None,  # [R], and the other sampling parameters
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,  # [B, N, W] i32
    d2t: Tensor | None,  # [D] i32
    t2d: Tensor | None,  # [T] i32
    rows: Tensor | None,  # [B] i32
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
    columns = source.shape[1]
    if source_length is None:
        source_length = (source < 0).cumsum(-1).eq(0).sum(-1)
    offered = source_length.clamp(0, columns)
    per_request = [x for x in (temperature, top_k, top_p, min_p, arm) if x is not None]
    count = per_request[0].shape[0] if per_request else source.shape[0]
    state = StateRows(rows if per_request else None, count, source.device)
    rules = Rules(rule_kind, rule_param, state.of(arm), state.of(memory))
    sampling = Sampling(temperature, top_k, top_p, min_p).map(state.of)
    for j in range(min(columns, tokens.shape[1])):
        going = active & state.known & (j < offered) & (j < max_length)
        if logits is None:
            row = torch.zeros_like(stats[:, j])
            row[:, TOP1_PROB] = 1.0
            valid = torch.ones_like(active)
        else:
            mask = None if token_mask is None else token_mask[:, j]
            allowed = allowed_ids(mask, target_ids(d2t, logits.shape[-1], source.device))
            processed = process(logits[:, j], sampling, allowed)
            row = row_stats_of(processed, draft_ids(source[:, j], t2d))
            valid = processed.status == OK
        kept = going & valid
        if logits is not None and token_mask is not None:
            logits[:, j].masked_fill_(kept[:, None] & ~allowed, -torch.inf)
        tokens[:, j] = torch.where(kept, source[:, j], tokens[:, j])
        stats[:, j] = torch.where(kept[:, None], row, stats[:, j])
        slot = torch.full_like(source[:, j], j)
        decides = arm_of_slot(rules, slot)
        seen = Slot(slot, stats.double(), decides.param, decides.memory)
        stopped = should_stop(decides.kind, seen)
        reason = torch.where(stopped, RULE, torch.where(j + 1 >= max_length, MAX_LENGTH, NONE))
        reason = torch.where(valid, reason, BAD_LOGITS)
        length.add_(kept)
        stop_reason.copy_(torch.where(going, reason, stop_reason))
        active.copy_(going & (reason == NONE))
    active.zero_()
    num_active.zero_()
