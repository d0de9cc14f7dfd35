"""``proposal_reset``: begin a draft. One launch clears every row, takes rounds, counts the rows
that draft; with more rows than one program holds, the last program to finish adds up the counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.rows import state_row
from .core.stop import (
    MAX_LENGTH,
    NONE,
    NOT_LIVE,
    PRE_DRAFT,
    stops_before_drafting,
    take_prediction,
)
from .launch import launch, workspace
from .params import Pointer, Rules

ROWS = 64  # of one program
TILE = 1024  # elements cleared at once
WARPS = 4
STATS_COLUMNS = tl.constexpr(8)


class Inputs(NamedTuple):
    max_length: Pointer  # [B] i32
    prediction: Pointer  # [B] f32
    live: Pointer  # [B] bool
    rows: Pointer  # [B] i32


class Draft(NamedTuple):
    """What is written; all but ``rng_round`` whatever was there."""

    rng_round: Pointer  # [R] i64
    tokens: Pointer  # [B, K] i64
    length: Pointer  # [B] i32
    max_length: Pointer  # [B] i32
    active: Pointer  # [B] bool
    live: Pointer  # [B] bool
    round: Pointer  # [B] i64
    num_active: Pointer  # [1] i32
    stats: Pointer  # [B, K, 8] f32
    stop_reason: Pointer  # [B] i32


@triton.jit
def begin_rows(inputs, draft, rules, states, arms, arm_slots, slots, b, inside):
    """All but tokens and stats of the rows ``b``; which of them draft."""
    row = state_row(inputs.rows, states, b, inside)
    live = row >= 0
    if inputs.live is not None:
        live = live & (tl.load(inputs.live + b, mask=live, other=0) != 0)
    limit = b * 0 + slots
    if inputs.max_length is not None:
        limit = tl.load(inputs.max_length + b, mask=inside, other=0).to(tl.int64)
    limit = tl.minimum(tl.maximum(limit, 0), slots)
    reason = tl.where(limit == 0, MAX_LENGTH, NONE)
    if inputs.prediction is not None and rules.kind is not None:
        take_prediction(rules, inputs.prediction, arms, slots, row, b, live)
    stops = stops_before_drafting(rules, arms, arm_slots, row, live)
    reason = tl.where(live, tl.where(stops, PRE_DRAFT, reason), NOT_LIVE)
    taken = tl.load(draft.rng_round + row, mask=live, other=0)
    tl.store(draft.round + b, taken, mask=live)
    tl.store(draft.rng_round + row, taken + 1, mask=live)
    tl.store(draft.length + b, tl.zeros_like(reason), mask=inside)
    tl.store(draft.max_length + b, limit.to(tl.int32), mask=inside)
    tl.store(draft.live + b, live, mask=inside)
    tl.store(draft.stop_reason + b, reason, mask=inside)
    tl.store(draft.active + b, reason == NONE, mask=inside)
    return inside & (reason == NONE)


@triton.jit
def clear(pointer, value, begin, end, TILE: tl.constexpr):
    for first in range(begin, end, TILE):
        at = first + tl.arange(0, TILE)
        tl.store(pointer + at, tl.full([TILE], value, pointer.dtype.element_ty), mask=at < end)


@triton.jit
def count_active(active, draft, counts, ticket, ROWS: tl.constexpr):
    """The last program to come here adds up what all of them counted."""
    programs = tl.num_programs(0)
    if programs == 1:
        tl.store(draft.num_active, active)
    else:
        tl.store(counts + tl.program_id(0), active)
        tl.debug_barrier()
        if tl.atomic_add(ticket, 1, sem="acq_rel") == programs - 1:
            tl.store(ticket, 0)
            total = active * 0
            for first in range(0, programs, ROWS):
                at = first + tl.arange(0, ROWS)
                found = tl.load(counts + at, mask=at < programs, other=0, cache_modifier=".cg")
                total += tl.sum(found, 0)
            tl.store(draft.num_active, total)


@triton.jit(do_not_specialize=["batch", "states", "slots", "arms", "arm_slots"])
def proposal_reset_kernel(
    inputs, draft, rules, counts, ticket,
    batch: tl.int64, states: tl.int64, slots: tl.int64, arms: tl.int64, arm_slots: tl.int64,
    ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    begin = tl.program_id(0).to(tl.int64) * ROWS
    b = begin + tl.arange(0, ROWS)
    drafts = begin_rows(inputs, draft, rules, states, arms, arm_slots, slots, b, b < batch)
    end = tl.minimum(begin + ROWS, batch)
    clear(draft.tokens, -1, begin * slots, end * slots, TILE)
    columns = slots * STATS_COLUMNS
    clear(draft.stats, 0, begin * columns, end * columns, TILE)
    count_active(tl.sum(drafts.to(tl.int32), 0), draft, counts, ticket, ROWS)


def proposal_reset(
    max_length: Tensor | None,
    prediction: Tensor | None,
    live: Tensor | None,
    rows: Tensor | None,
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    arm: Tensor | None,
    memory: Tensor | None,
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
    batch, slots = tokens.shape
    arms = 0 if rule_kind is None else rule_kind.shape[0]
    arm_slots = arm.shape[1] if arm is not None and arm.dim() == 2 else 1
    programs = triton.cdiv(batch, ROWS)
    scratch = workspace(tokens.device, 1, ((programs,), torch.int32))
    launch(
        proposal_reset_kernel, programs, Inputs(max_length, prediction, live, rows),
        Draft(rng_round, tokens, length, out_max_length, active, out_live, round, num_active,
              stats, stop_reason),
        Rules(rule_kind, rule_param, arm, memory), scratch.arrays[0], scratch.tickets, batch,
        rng_round.shape[0], slots, arms, arm_slots, warps=WARPS, ROWS=ROWS, TILE=TILE,
    )  # fmt: skip
