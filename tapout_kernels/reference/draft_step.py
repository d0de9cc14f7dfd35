"""Reference ``draft_step``: statistics, one drafted token, the stop test, the bookkeeping."""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import GREEDY, GUMBEL
from .gumbel import gumbel_index, gumbel_noise
from .rng import DRAFT, uniform
from .rows import StateRows
from .sampling import sample_index
from .stats import ACCEPT_ESTIMATE, OK, Sampling, process, row_stats_of
from .stop import (
    BAD_LOGITS,
    MAX_LENGTH,
    NONE,
    RULE,
    Rules,
    Slot,
    arm_of_slot,
    should_stop,
    stored_estimate,
)  # fmt: skip
from .vocab import allowed_ids, target_ids


def draft_step(
    logits: Tensor,  # [B, D]
    temperature: Tensor | None,  # [R], and the other sampling parameters
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,  # [B, W] i32
    d2t: Tensor | None,  # [D] i32
    accept_estimate: Tensor | None,  # [B] f32
    seed: Tensor,  # [R] i64
    position: Tensor,  # [R] i64
    round: Tensor,  # [B] i64
    max_length: Tensor,  # [B] i32
    rows: Tensor | None,  # [B] i32
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    arm: Tensor | None,
    memory: Tensor | None,
    rule: int,
    logits_row: Tensor | None,  # [B] i32
    tokens: Tensor,  # [B, K] i64, and everything below: written where active
    length: Tensor,
    active: Tensor,
    num_active: Tensor,
    kept_logits: Tensor | None,  # [L, K, D]
    stats: Tensor,
    stop_reason: Tensor,
    next_token: Tensor,
) -> None:
    batch, slots = tokens.shape
    b = torch.arange(batch, device=tokens.device)
    slot = length.long().clamp(0, slots - 1)
    previous_token = torch.where(length > 0, tokens[b, (length.long() - 1).clamp(0, slots - 1)], 0)
    state = StateRows(rows, seed.shape[0], tokens.device)
    drafting = active & state.known

    ids = target_ids(d2t, logits.shape[-1], tokens.device)
    allowed = allowed_ids(token_mask, ids)
    sampling = Sampling(temperature, top_k, top_p, min_p).map(state.of)
    processed = process(logits, sampling, allowed, rule == GREEDY)
    if rule == GUMBEL:
        noise = gumbel_noise(state.of(seed), state.of(position) + slot, ids)
        token = gumbel_index(processed, noise)
    else:
        token = sample_index(processed.weights, uniform(state.of(seed), 0, slot, round, DRAFT))
    row = row_stats_of(processed, token)
    if accept_estimate is not None:
        row[:, ACCEPT_ESTIMATE] = stored_estimate(accept_estimate)

    kept = StateRows(logits_row, batch if kept_logits is None else len(kept_logits), logits.device)
    full = (length < 0) | (length >= slots)
    valid = (processed.status == OK) & (kept.known if kept_logits is not None else True)
    fills = drafting & valid & ~full
    stats[b, slot] = torch.where(fills[:, None], row, stats[b, slot])
    decides = arm_of_slot(Rules(rule_kind, rule_param, state.of(arm), state.of(memory)), slot)
    seen = Slot(slot, stats.double(), decides.param, decides.memory)
    at_limit = (slot + 1 >= max_length) | (slot + 1 >= slots)
    reason = torch.where(at_limit, MAX_LENGTH, NONE)
    reason = torch.where(should_stop(decides.kind, seen), RULE, reason)
    reason = torch.where(valid, reason, BAD_LOGITS)
    reason = torch.where(full, MAX_LENGTH, reason)

    next_token.copy_(torch.where(fills, ids[token], previous_token))
    tokens[b, slot] = torch.where(fills, ids[token], tokens[b, slot])
    if kept_logits is not None:
        raw = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
        for i in range(batch):  # one by one: rows that do not exist share a safe index
            at = kept.index[i : i + 1], slot[i : i + 1]
            kept_logits[at] = torch.where(fills[i], raw[i], kept_logits[at])
    stop_reason.copy_(torch.where(drafting, reason, stop_reason))
    length.add_(fills)
    active.copy_(torch.where(drafting, reason == NONE, active))
    num_active.copy_(active.sum())
