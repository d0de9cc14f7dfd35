"""Reference ``draft_step``: statistics, one sampled token, the stop test, the bookkeeping."""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import GREEDY
from .rng import DRAFT, uniform
from .sampling import sample_index
from .stats import OK, process, row_stats_of
from .stop import BAD_LOGITS, MAX_LENGTH, NONE, RULE, Slot, rows_of_arm, should_stop


def draft_step(
    logits: Tensor,  # [B, V]
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    seed: Tensor,  # [B] i64
    round: Tensor,  # [B] i64
    max_length: Tensor,  # [B] i32
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    arm: Tensor | None,
    memory: Tensor | None,
    rule: int,
    tokens: Tensor,  # [B, K] i64, and everything below: written where active
    length: Tensor,
    active: Tensor,
    num_active: Tensor,
    kept_logits: Tensor | None,  # [B, K, V]
    stats: Tensor,
    stop_reason: Tensor,
    next_token: Tensor,
) -> None:
    batch, slots = tokens.shape
    rows = torch.arange(batch, device=tokens.device)
    slot = length.long().clamp(max=slots - 1)
    previous_slot = (slot - 1).clamp(min=0)
    previous_token = torch.where(length > 0, tokens[rows, previous_slot], 0)

    processed = process(logits, temperature, top_k, top_p, rule == GREEDY)
    u = uniform(seed, 0, slot, round, DRAFT)
    token = sample_index(processed.weights, u)
    row = row_stats_of(processed, token)
    valid = processed.status == OK
    full = length >= slots
    drafting = active & valid & ~full

    kind, param, mem = rows_of_arm(rule_kind, rule_param, memory, arm, batch, tokens.device)
    seen = Slot(slot.double(), row.double(), stats[rows, previous_slot].double(), param, mem)
    at_limit = (slot + 1 >= max_length) | (slot + 1 >= slots)
    reason = torch.where(should_stop(kind, seen), RULE, torch.where(at_limit, MAX_LENGTH, NONE))
    reason = torch.where(valid, reason, BAD_LOGITS)
    reason = torch.where(full, MAX_LENGTH, reason)

    next_token.copy_(torch.where(drafting, token, previous_token))
    tokens[rows, slot] = torch.where(drafting, token, tokens[rows, slot])
    stats[rows, slot] = torch.where(drafting[:, None], row, stats[rows, slot])
    if kept_logits is not None:
        kept_logits[rows, slot] = torch.where(drafting[:, None], logits, kept_logits[rows, slot])
    stop_reason.copy_(torch.where(active, reason, stop_reason))
    length.add_(drafting)
    active.logical_and_(reason == NONE)
    num_active.copy_(active.sum())
