"""Reference ``proposal_reset``: begin a draft (clear, take a round, apply the pre-draft test)."""

from __future__ import annotations

import torch
from torch import Tensor

from .stop import MAX_LENGTH, NONE, NOT_LIVE, PRE_DRAFT, rows_of_arm, stop_before_drafting


def proposal_reset(
    max_length: Tensor | None,  # [B] i32
    live: Tensor | None,  # [B] bool
    rule_kind: Tensor | None,  # [A] i32
    rule_param: Tensor | None,  # [A, 4] f32
    arm: Tensor | None,  # [B] i32
    memory: Tensor | None,  # [B, A, 4] f32
    rng_round: Tensor,  # [B] i64, live rows advance
    tokens: Tensor,  # [B, K] i64, and everything below: written
    length: Tensor,
    out_max_length: Tensor,
    active: Tensor,
    out_live: Tensor,
    round: Tensor,
    num_active: Tensor,
    stats: Tensor,
    stop_reason: Tensor,
) -> None:
    batch, slots = tokens.shape
    live = torch.ones_like(out_live) if live is None else live
    limit = torch.full_like(out_max_length, slots) if max_length is None else max_length
    limit = limit.clamp(0, slots)
    kind, param, _ = rows_of_arm(rule_kind, rule_param, memory, arm, batch, tokens.device)
    reason = torch.where(limit == 0, MAX_LENGTH, NONE)
    reason = torch.where(stop_before_drafting(kind, param), PRE_DRAFT, reason)
    reason = torch.where(live, reason, NOT_LIVE)

    round.copy_(torch.where(live, rng_round, round))
    rng_round.add_(live)
    tokens.fill_(-1)
    length.zero_()
    stats.zero_()
    out_max_length.copy_(limit)
    out_live.copy_(live)
    stop_reason.copy_(reason)
    active.copy_(reason == NONE)
    num_active.copy_(active.sum())
