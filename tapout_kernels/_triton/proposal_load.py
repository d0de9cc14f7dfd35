"""proposal_load: take over drafts made elsewhere, cut where the arm would stop; one launch.

The statistics of a request's slots are found side by side; the last program to arrive then goes
through the slots in order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.sampling import TOKEN, row_sampling
from .core.stats import NUM_STATS, OK, TOP1_PROB
from .core.stop import BAD_LOGITS, MAX_LENGTH, NONE, RULE, stops_after
from .finish import arrives_last
from .launch import launch, tuning
from .law import column_log_probability, finish_row, write_stats
from .params import Proposal, Rules, Sampling
from .row import GROUP, Row, RowScratch, allows, known_row
from .scan import scan_row
from .scratch import constants, layout, mask_layout, rows_of, rules_layout

LANES = tl.constexpr(32)  # tokens looked at together


class Source(NamedTuple):
    """Drafts made elsewhere."""

    tokens: object  # [B, N] i64
    length: object  # [B] i32, or None: up to the first negative id
    logits: object  # [B, N, D], or None
    mask: object  # [B, N, W], or None
    d2t: object
    t2d: object
    stats: object  # [B, N, 8] f32 scratch, or None without logits
    status: object  # [B, N] i32 scratch


class Layout(NamedTuple):
    """Numbers of the source."""

    columns: object
    batch_stride: object
    row_stride: object
    vocab: object
    mask_batch_stride: object
    mask_row_stride: object
    words: object
    target_ids: object


@triton.jit
def offered_length(source, shape, b):
    """How many tokens the source has for a request."""
    offered = shape.columns
    if source.length is not None:
        offered = tl.minimum(tl.load(source.length + b).to(tl.int64), offered)
    else:
        tokens = source.tokens + b.to(tl.int64) * shape.columns
        for first in range(0, shape.columns, LANES):
            j = first + tl.arange(0, LANES)
            ended = tl.load(tokens + j, mask=j < shape.columns, other=0) < 0
            offered = tl.minimum(offered, tl.min(tl.where(ended, j, shape.columns), 0))
    return offered


@triton.jit
def source_at(shape, b, j):
    """Where the logits of one slot begin, and its mask."""
    first = b.to(tl.int64)
    logits = first * shape.batch_stride + j * shape.row_stride
    return logits, first * shape.mask_batch_stride + j * shape.mask_row_stride


@triton.jit
def source_column(source, shape, b, j):
    """The draft id of a source token, -1 where there is none."""
    token = tl.load(source.tokens + b.to(tl.int64) * shape.columns + j)
    if source.t2d is not None:
        known = (token >= 0) & (token < shape.target_ids)
        token = tl.load(source.t2d + token, mask=known, other=-1).to(tl.int64)
    return token


@triton.jit
def measure_slot(
    source, shape, drawn, own, b, j, at, split, splits, ticket,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Leaves the statistics and the status of one slot in the scratch of the source."""
    start, mask_at = source_at(shape, b, j)
    row = Row(
        source.logits + start, shape.vocab.to(tl.int32), source.mask, mask_at,
        shape.words.to(tl.int32), source.d2t,
    )  # fmt: skip
    tiles = tl.cdiv(shape.vocab, TILE).to(tl.int32)
    scan_row(row, drawn, own, None, None, None, split, splits, tiles, TOKEN, True, TILE)
    if arrives_last(ticket, splits):
        law = finish_row(row, drawn, own, tiles, True, TILE, PRECISION, PIVOTS, LISTED)
        logprob = tl.full([], 0.0, tl.float64)
        if law.status == OK:
            column = source_column(source, shape, b, j)
            logprob = column_log_probability(row, drawn, law, column)
        stats = source.stats + at * NUM_STATS
        write_stats(stats, drawn, law, logprob, tl.full([], 0.0, tl.float32))
        tl.store(source.status + at, law.status)


@triton.jit
def take_slot(source, proposal, rules, arms, arm_slots, b, r, j, slots, at, limit):
    """Copies one slot and its statistics; why the draft ends there."""
    column = tl.arange(0, NUM_STATS)
    status = tl.full([], OK, tl.int32)
    row = tl.where(column == TOP1_PROB, 1.0, 0.0).to(tl.float32)
    if source.stats is not None:
        status = tl.load(source.status + at, cache_modifier=".cg")
        row = tl.load(source.stats + at * NUM_STATS + column, cache_modifier=".cg")
    reason = tl.full([], BAD_LOGITS, tl.int32)
    if status == OK:
        stats = proposal.stats + b.to(tl.int64) * slots * NUM_STATS
        tl.store(stats + j * NUM_STATS + column, row)
        tl.debug_barrier()
        stops = stops_after(rules, arms, arm_slots, r, j.to(tl.int32), stats)
        reason = tl.where(stops, RULE, tl.where(j + 1 >= limit, MAX_LENGTH, NONE))
    return reason


@triton.jit
def take_slots(source, shape, proposal, rules, arms, arm_slots, b, r, count, slots, levels):
    """Goes through the slots until one ends the draft; how many were taken."""
    limit = tl.load(proposal.max_length + b).to(tl.int64)
    taken = tl.full([], 0, tl.int64)
    reason = tl.full([], NONE, tl.int32)
    while (reason == NONE) & (taken < count):
        at = b.to(tl.int64) * levels + taken
        reason = take_slot(source, proposal, rules, arms, arm_slots, b, r, taken, slots, at, limit)
        if reason != BAD_LOGITS:
            token = tl.load(source.tokens + b.to(tl.int64) * shape.columns + taken)
            tl.store(proposal.tokens + b.to(tl.int64) * slots + taken, token)
            taken += 1
    tl.store(proposal.length + b, tl.load(proposal.length + b) + taken)
    tl.store(proposal.stop_reason + b, reason)
    return taken


@triton.jit
def forbid(source, shape, b, taken, TILE: tl.constexpr):
    """Sets the masked logits of the slots taken to -inf."""
    j = tl.full([], 0, tl.int64)
    while j < taken:
        start, mask_at = source_at(shape, b, j)
        row = Row(
            source.logits + start, shape.vocab.to(tl.int32), source.mask, mask_at,
            shape.words.to(tl.int32), source.d2t,
        )  # fmt: skip
        for first in range(0, row.vocab, TILE):
            ids = first + tl.arange(0, TILE)
            forbidden = (allows(row, ids) == 0) & (ids < row.vocab)
            lowest = tl.full([TILE], float("-inf"), tl.float32)
            tl.store(row.logits + ids, lowest.to(row.logits.dtype.element_ty), mask=forbidden)
        j += 1


@triton.jit(
    do_not_specialize=[
        "columns", "mask_batch_stride", "mask_row_stride", "words", "target_ids", "state_rows",
        "arms", "arm_slots", "slots", "levels", "splits",
    ]
)  # fmt: skip
def proposal_load_kernel(
    source, columns: tl.int64, batch_stride: tl.int64, row_stride: tl.int64, vocab: tl.int64,
    mask_batch_stride: tl.int64, mask_row_stride: tl.int64, words: tl.int64, target_ids: tl.int64,
    sampling, rows, state_rows: tl.int64, rules, arms: tl.int64, arm_slots: tl.int64, proposal,
    scratch, tickets, slots: tl.int64, levels: tl.int32, splits: tl.int32,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    split = (tl.program_id(0) % splits).to(tl.int32)
    j = ((tl.program_id(0) // splits) % levels).to(tl.int64)
    b = (tl.program_id(0) // splits // levels).to(tl.int32)
    shape = Layout(
        columns, batch_stride, row_stride, vocab, mask_batch_stride, mask_row_stride, words,
        target_ids,
    )  # fmt: skip
    r, known = known_row(rows, b, state_rows)
    count = tl.full([], 0, tl.int64)
    if known & tl.load(proposal.active + b):
        count = tl.minimum(offered_length(source, shape, b), slots)
        count = tl.minimum(count, tl.load(proposal.max_length + b).to(tl.int64))
        count = tl.maximum(count, 0)
    first = (split == 0) & (j == 0)
    if first & (b == 0):
        tl.store(proposal.num_active, 0)
    if source.logits is not None:
        if j < count:
            at = b.to(tl.int64) * levels + j
            tiles = tl.cdiv(vocab, TILE)
            own = RowScratch(scratch, at * tiles, at * tiles * (TILE // GROUP))
            drawn = row_sampling(sampling, r, vocab, TOKEN)
            row_tickets = tickets + tl.num_programs(0) // splits // levels
            measure_slot(
                source, shape, drawn, own, b, j, at, split, splits, row_tickets + at,
                TILE, PRECISION, PIVOTS, LISTED,
            )  # fmt: skip
            finishes = arrives_last(tickets + b, splits * count)
        else:
            finishes = first & (count == 0)
    else:
        finishes = first
    if finishes:
        if count > 0:
            taken = take_slots(
                source, shape, proposal, rules, arms, arm_slots, b, r, count, slots, levels
            )
            if source.logits is not None and source.mask is not None:
                forbid(source, shape, b, taken, TILE)
        tl.store(proposal.active + b, False)


def proposal_load(
    source: Tensor,
    source_length: Tensor | None,
    logits: Tensor | None,
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,
    d2t: Tensor | None,
    t2d: Tensor | None,
    rows: Tensor | None,
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    arm: Tensor | None,
    memory: Tensor | None,
    max_length: Tensor,
    tokens: Tensor,
    length: Tensor,
    active: Tensor,
    num_active: Tensor,
    stats: Tensor,
    stop_reason: Tensor,
) -> None:
    (batch, columns), slots = source.shape, tokens.shape[1]
    sampling = Sampling(temperature, top_k, top_p, min_p)
    rules = Rules(rule_kind, rule_param, arm, memory)
    per_request = [x for x in (*sampling, arm) if x is not None]
    proposal = Proposal(tokens, length, active, num_active, stats, stop_reason, max_length)
    levels = max(1, min(columns, slots)) if logits is not None else 1
    given = (
        sampling, rows if per_request else None,
        per_request[0].shape[0] if per_request else batch, rules, *rules_layout(rules), proposal,
    )  # fmt: skip
    if logits is None:
        drafts = Source(source, source_length, None, None, None, None, None, None)
        plan = tuning(source.device)
        launch(
            proposal_load_kernel, batch, drafts, columns, 0, 0, 0, 0, 0, 0, 0, *given, None, None,
            slots, levels, 1, **constants(plan, torch.float32),
        )  # fmt: skip
        return
    count = batch * levels
    more = (((count, NUM_STATS.value), torch.float32), ((count,), torch.int32))
    space = rows_of(count, logits, sampling, TOKEN.value, batch + count, more)
    drafts = Source(source, source_length, logits, token_mask, d2t, t2d, *space.more)
    launch(
        proposal_load_kernel, space.programs, drafts, columns, *layout(logits),
        *mask_layout(token_mask), 0 if t2d is None else t2d.shape[0], *given, space.scratch,
        space.tickets, slots, levels, space.splits, **space.constants,
    )  # fmt: skip
