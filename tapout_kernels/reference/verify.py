"""Reference ``verify``: accept drafts, emit one more token, advance positions."""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import GREEDY, accept, residual
from .rng import ACCEPT, RESIDUAL, uniform
from .sampling import sample_index
from .stats import BAD_DRAFT, CUTOFF, OK, TEMPERATURE, TOKEN_LOGPROB, process


def verify(
    target_logits: Tensor,  # [B, K+1, V]
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    seed: Tensor,  # [B] i64
    draft_tokens: Tensor,  # [B, K] i64
    length: Tensor,  # [B] i32
    live: Tensor,  # [B] bool
    round: Tensor,  # [B] i64
    draft_logits: Tensor | None,  # [B, K, V]
    stats: Tensor,  # [B, K, 8] f32
    rule: int,
    position: Tensor,  # [B] i64, advanced
    tokens: Tensor,  # [B, K+1] i64, and everything below: written
    num_accepted: Tensor,
    num_emitted: Tensor,
    last_token: Tensor,
    status: Tensor,
    accept_prob: Tensor,
) -> None:
    batch, rows_per_request, vocab = target_logits.shape
    slots = rows_per_request - 1
    device = target_logits.device
    processed = process(
        target_logits.reshape(-1, vocab),
        *(each_row(x, rows_per_request) for x in (temperature, top_k, top_p)),
        rule == GREEDY,
    )
    p_target = processed.probs.view(batch, rows_per_request, vocab)
    row_status = processed.status.view(batch, rows_per_request)

    slot = torch.arange(slots, device=device)
    length = length.clamp(0, slots)
    inside = (draft_tokens >= 0) & (draft_tokens < vocab)
    index = torch.where(inside, draft_tokens, 0)[..., None]
    p_target_x = p_target[:, :slots].gather(-1, index)[..., 0]
    p_draft_x = draft_prob(draft_logits, stats, rule)
    bad = ~(inside & (p_draft_x > 0))
    u = uniform(seed[:, None], 0, slot, round[:, None], ACCEPT)
    good = accept(u, p_draft_x, p_target_x) & ~bad & (row_status[:, :slots] == OK)

    accepted = (good & (slot < length[:, None])).cumprod(-1).sum(-1)  # [B]
    end = accepted[:, None]  # the deciding row
    end_slot = end.clamp(max=slots - 1)
    end_status = row_status.gather(-1, end)[:, 0]
    drafted = accepted < length  # there is a draft at the deciding row
    bad_end = drafted & bad.gather(-1, end_slot)[:, 0]
    end_status = torch.where((end_status == OK) & bad_end, BAD_DRAFT, end_status)
    rejected = drafted & (end_status == OK)

    weights = p_target[torch.arange(batch, device=device), accepted]
    p_draft = draft_distribution(draft_logits, stats, draft_tokens, end_slot[:, 0], vocab, rule)
    weights = torch.where(rejected[:, None], residual(weights, p_draft), weights)
    emitted = sample_index(weights, uniform(seed, 0, accepted, round, RESIDUAL))

    emits = live & ((end_status == OK) | (end_status == BAD_DRAFT))
    all_slots = torch.arange(slots + 1, device=device)
    out = torch.nn.functional.pad(draft_tokens, (0, 1), value=-1)
    out = torch.where(all_slots < end, out, -1)
    out = torch.where((all_slots == end) & emits[:, None], emitted[:, None], out)
    count = torch.where(live, accepted, 0)
    total = count + emits
    ratio = (p_target_x / p_draft_x.clamp(min=1e-300)).clamp(max=1.0)
    decided = (slot < end) | ((slot == end) & rejected[:, None])

    tokens.copy_(torch.where(live[:, None], out, -1))
    num_accepted.copy_(count)
    num_emitted.copy_(total)
    last = tokens.gather(-1, (total - 1).clamp(min=0)[:, None])[:, 0]
    last_token.copy_(torch.where(total > 0, last, 0))
    status.copy_(torch.where(live, end_status, OK))
    accept_prob.copy_(torch.where(decided & live[:, None], ratio, -1.0))
    position.add_(total)


def each_row(values: Tensor | None, rows: int) -> Tensor | None:
    """[B] per-request values -> [B * rows], one for each of the request's target rows."""
    return None if values is None else values.repeat_interleave(rows)


def one_hot_drafts(draft_logits: Tensor | None, stats: Tensor) -> Tensor:
    """[B, K] bool: the draft's distribution had all its mass on the drafted token."""
    if draft_logits is None:
        return torch.ones_like(stats[..., 0], dtype=torch.bool)
    return stats[..., TEMPERATURE] == 0


def draft_prob(draft_logits: Tensor | None, stats: Tensor, rule: int) -> Tensor:
    """[B, K] f64 probability with which each drafted token was drawn; greedy ignores it."""
    drawn = stats[..., TOKEN_LOGPROB].double().exp().clamp(max=1.0)
    if rule == GREEDY or draft_logits is None:
        return torch.ones_like(drawn)
    return drawn


def draft_distribution(
    draft_logits: Tensor | None,  # [B, K, V]
    stats: Tensor,  # [B, K, 8]
    draft_tokens: Tensor,  # [B, K]
    slot: Tensor,  # [B]
    vocab: int,
    rule: int,
) -> Tensor:
    """[B, V] f64 p_draft at one slot, rebuilt from the kept row and the token's log-probability.

    Relative to the drafted token's own logit, so no precision is lost at small temperatures.
    """
    rows = torch.arange(slot.shape[0], device=slot.device)
    token = draft_tokens[rows, slot].clamp(0, vocab - 1)
    point = torch.nn.functional.one_hot(token, vocab).double()
    if draft_logits is None or rule == GREEDY:
        return point
    row = stats[rows, slot].double()
    z = draft_logits[rows, slot].double()
    z_token = z.gather(-1, token[:, None])
    t = torch.where(row[:, TEMPERATURE] > 0, row[:, TEMPERATURE], 1.0)
    log_prob = row[:, TOKEN_LOGPROB, None] + (z - z_token) / t[:, None]
    kept = (z >= row[:, CUTOFF, None]) & ~z.isneginf()
    full = torch.where(kept, log_prob.exp(), 0.0)
    return torch.where(one_hot_drafts(draft_logits, stats)[rows, slot][:, None], point, full)
