"""draft_step: statistics, one drafted token, the stop test and the bookkeeping; one launch.

Programs share a row; the last of them to arrive finishes it, and the last row counts who is still
drafting.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .core.rng import DRAFT, uniform_at
from .core.sampling import BLOCK, GUMBEL, TOKEN, row_sampling
from .core.stats import NUM_STATS, OK
from .core.stop import BAD_LOGITS, MAX_LENGTH, NONE, RULE, stops_after, stored_estimate
from .finish import arrives_last
from .gumbel import Noise
from .launch import launch
from .law import column_log_probability, draw, draw_gumbel, finish_row, write_stats
from .params import Proposal, Rng, Rules, Sampling
from .row import GROUP, Row, RowScratch, known_row, target_ids
from .scan import scan_row
from .scratch import mask_layout, rows_of, rules_layout

COUNTED = tl.constexpr(256)  # rows counted at once


@triton.jit
def last_token(proposal, b, slots):
    """What an inactive row repeats: its last drafted token, 0 if there is none."""
    length = tl.minimum(tl.load(proposal.length + b), slots)
    at = b.to(tl.int64) * slots + tl.maximum(length - 1, 0)
    return tl.where(length > 0, tl.load(proposal.tokens + at), 0)


@triton.jit
def decide_slot(proposal, rules, arms, arm_slots, b, r, slot, slots):
    """Why drafting ends after a slot whose statistics are stored."""
    tl.debug_barrier()
    stats = proposal.stats + b.to(tl.int64) * slots * NUM_STATS
    full = (slot + 1 >= tl.load(proposal.max_length + b)) | (slot + 1 >= slots)
    stops = stops_after(rules, arms, arm_slots, r, slot, stats)
    return tl.where(stops, RULE, tl.where(full, MAX_LENGTH, NONE))


@triton.jit
def end_row(proposal, b, reason):
    tl.store(proposal.stop_reason + b, reason)
    tl.store(proposal.active + b, reason == NONE)


@triton.jit
def count_active(proposal, ticket, batch):
    """By the last row to be finished."""
    if arrives_last(ticket, batch):
        total = tl.full([], 0, tl.int32)
        for first in range(0, batch, COUNTED):
            b = first + tl.arange(0, COUNTED)
            active = tl.load(proposal.active + b, b < batch, 0, cache_modifier=".cg")
            total += tl.sum(active.to(tl.int32), 0)
        tl.store(proposal.num_active, total)


@triton.jit
def fill_slot(
    row, drawn, own, noise, law, tiles, uniform, estimate, proposal, next_token, b, slot, slots,
    KIND: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Draws the token of a valid row and stores it with its statistics."""
    if KIND == GUMBEL:
        column = draw_gumbel(row, drawn, own, law, tiles, noise, LISTED)
    else:
        column = draw(row, drawn, own, law, tiles, uniform * law.kept, -1, TILE)
    at = b.to(tl.int64) * slots + slot
    stats = proposal.stats + at * NUM_STATS
    write_stats(stats, drawn, law, column_log_probability(row, drawn, law, column), estimate)
    token = target_ids(row, column).to(tl.int64)
    tl.store(proposal.tokens + at, token)
    tl.store(proposal.length + b, slot + 1)
    tl.store(next_token + b, token)


@triton.jit(
    do_not_specialize=[
        "mask_stride", "words", "state_rows", "arms", "arm_slots", "kept_rows", "batch", "slots",
        "splits",
    ]
)  # fmt: skip
def draft_step_kernel(
    logits, stride: tl.int64, vocab: tl.int64, mask, mask_stride: tl.int64, words: tl.int64, d2t,
    sampling, rng, rows, state_rows: tl.int64, rules, arms: tl.int64, arm_slots: tl.int64,
    accept_estimate, proposal, next_token, kept, logits_row, kept_rows: tl.int64,
    scratch, tickets, batch: tl.int32, slots: tl.int64, splits: tl.int32,
    KIND: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // splits).to(tl.int32)
    split = (tl.program_id(0) % splits).to(tl.int32)
    slots = slots.to(tl.int32)
    r, known = known_row(rows, b, state_rows)
    drafting = known & tl.load(proposal.active + b)
    slot = tl.load(proposal.length + b)
    room = (slot >= 0) & (slot < slots)
    if kept is not None:
        home, kept_known = known_row(logits_row, b, kept_rows)
    else:
        kept_known = known
    if drafting & room & kept_known:
        tiles = tl.cdiv(vocab, TILE).to(tl.int32)
        at = b.to(tl.int64)
        row = Row(
            logits + at * stride, vocab.to(tl.int32), mask, at * mask_stride, words.to(tl.int32),
            d2t,
        )  # fmt: skip
        own = RowScratch(scratch, at * tiles, at * tiles * (TILE // GROUP))
        drawn = row_sampling(sampling, r, row.vocab, KIND)
        seed = tl.load(rng.seed + r)
        noise = Noise(seed, tl.load(rng.position + r) + slot)
        if kept is not None:
            kept += (home * slots + slot) * vocab
        scan_row(row, drawn, own, noise, kept, None, split, splits, tiles, KIND, True, TILE)
        if arrives_last(tickets + 1 + b, splits):
            law = finish_row(row, drawn, own, tiles, True, TILE, PRECISION, PIVOTS, LISTED)
            reason = tl.full([], BAD_LOGITS, tl.int32)
            if law.status == OK:
                uniform = uniform_at(seed, slot.to(tl.int64), tl.load(rng.round + b), DRAFT)
                estimate = tl.full([], 0.0, tl.float32)
                if accept_estimate is not None:
                    estimate = stored_estimate(tl.load(accept_estimate + b))
                fill_slot(
                    row, drawn, own, noise, law, tiles, uniform, estimate, proposal, next_token,
                    b, slot, slots, KIND, TILE, LISTED,
                )  # fmt: skip
                reason = decide_slot(proposal, rules, arms, arm_slots, b, r, slot, slots)
            else:
                tl.store(next_token + b, last_token(proposal, b, slots))
            end_row(proposal, b, reason)
            count_active(proposal, tickets, batch)
    elif split == 0:
        tl.store(next_token + b, last_token(proposal, b, slots))
        if drafting:
            end_row(proposal, b, tl.where(room, BAD_LOGITS, MAX_LENGTH))
        count_active(proposal, tickets, batch)


def draft_step(
    logits: Tensor,
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,
    d2t: Tensor | None,
    accept_estimate: Tensor | None,
    seed: Tensor,
    position: Tensor,
    round: Tensor,
    max_length: Tensor,
    rows: Tensor | None,
    rule_kind: Tensor | None,
    rule_param: Tensor | None,
    arm: Tensor | None,
    memory: Tensor | None,
    rule: int,
    logits_row: Tensor | None,
    tokens: Tensor,
    length: Tensor,
    active: Tensor,
    num_active: Tensor,
    kept_logits: Tensor | None,
    stats: Tensor,
    stop_reason: Tensor,
    next_token: Tensor,
) -> None:
    sampling, (batch, slots) = Sampling(temperature, top_k, top_p, min_p), tokens.shape
    kind = TOKEN.value if rule == BLOCK.value else rule  # drafts of both are drawn alike
    space = rows_of(batch, logits, sampling, kind, tickets=1 + batch)
    proposal = Proposal(tokens, length, active, num_active, stats, stop_reason, max_length)
    rules = Rules(rule_kind, rule_param, arm, memory)
    launch(
        draft_step_kernel, space.programs, logits, logits.stride(0), logits.shape[1],
        token_mask, *mask_layout(token_mask)[1:], d2t, sampling, Rng(seed, position, round), rows,
        seed.shape[0], rules, *rules_layout(rules), accept_estimate, proposal, next_token,
        kept_logits, logits_row, 0 if kept_logits is None else kept_logits.shape[0],
        space.scratch, space.tickets, batch, slots, space.splits, KIND=kind, **space.constants,
    )  # fmt: skip
