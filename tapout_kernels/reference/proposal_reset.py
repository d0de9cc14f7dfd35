"""Reference ``proposal_reset``: begin a draft (clear, take a round, apply the pre-draft test)."""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import StateRows, write_rows
from .stop import (
    MAX_LENGTH,
    NONE,
    NOT_LIVE,
    PRE_DRAFT,
    PREDICTED_LENGTH,
    Rules,
    arm_of_slot,
    predicted_length,
    stop_before_drafting,
)  # fmt: skip


def proposal_reset(
    max_length: Tensor | None,  # [B] i32
    prediction: Tensor | None,  # [B] f32
    live: Tensor | None,  # [B] bool
    rows: Tensor | None,  # [B] i32
    rule_kind: Tensor | None,  # [A] i32
    rule_param: Tensor | None,  # [A, 4] f32
    arm: Tensor | None,  # [R] i32 or [R, K]
    memory: Tensor | None,  # [R, A, 4] f32: takes the predictions of live rows
    rng_round: Tensor,  # [R] i64, live rows advance
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
    state = StateRows(rows, rng_round.shape[0], tokens.device)
    live = state.known if live is None else live & state.known
    limit = torch.full_like(out_max_length, tokens.shape[1]) if max_length is None else max_length
    limit = limit.clamp(0, tokens.shape[1])
    if prediction is not None and rule_kind is not None:
        _predict(memory, rule_kind, state, live, predicted_length(prediction, tokens.shape[1]))
    rules = Rules(rule_kind, rule_param, state.of(arm), state.of(memory))
    first = arm_of_slot(rules, torch.zeros_like(round))
    reason = torch.where(limit == 0, MAX_LENGTH, NONE)
    reason = torch.where(stop_before_drafting(*first), PRE_DRAFT, reason)
    reason = torch.where(live, reason, NOT_LIVE)

    round.copy_(torch.where(live, state.of(rng_round), round))
    state.add(rng_round, live)
    tokens.fill_(-1)
    length.zero_()
    stats.zero_()
    out_max_length.copy_(limit)
    out_live.copy_(live)
    stop_reason.copy_(reason)
    active.copy_(reason == NONE)
    num_active.copy_(active.sum())


def _predict(
    memory: Tensor, rule_kind: Tensor, state: StateRows, live: Tensor, length: Tensor
) -> None:
    """Every ``predicted_length`` arm of a live row remembers the row's length."""
    new = state.of(memory)
    new[..., 0] = torch.where(rule_kind == PREDICTED_LENGTH, length[:, None], new[..., 0])
    write_rows(memory, state.index, live, new)
