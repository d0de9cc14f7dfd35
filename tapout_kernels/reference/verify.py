"""Reference ``verify``: accept drafts, emit one more token, advance positions."""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import BLOCK, leading
from .decide import Noise, decide, emitted_token
from .draft import bad_drafts, draft_distribution, draft_prob, kept_draft
from .rows import StateRows
from .stats import BAD_DRAFT, OK, Sampling
from .target import emitted_logprobs, target_rows


def verify(
    target_logits: Tensor,  # [B, K+1, V], or [n, V] with row_start
    row_start: Tensor | None,  # [B+1] i32
    temperature: Tensor | None,  # [R], and the other sampling parameters
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,  # [B, K+1, W] or [n, W] i32
    seed: Tensor,  # [R] i64
    rows: Tensor | None,  # [B] i32
    draft_tokens: Tensor,  # [B, K] i64
    length: Tensor,  # [B] i32
    live: Tensor,  # [B] bool
    round: Tensor,  # [B] i64
    draft_logits: Tensor | None,  # [L, K, D]
    logits_row: Tensor | None,  # [B] i32
    t2d: Tensor | None,  # [T] i32
    stats: Tensor,  # [B, K, 8] f32
    rule: int,
    raw_logprobs: bool,
    position: Tensor,  # [R] i64, advanced
    tokens: Tensor,  # [B, K+1] i64, and everything below: written
    num_accepted: Tensor,
    num_emitted: Tensor,
    last_token: Tensor,
    status: Tensor,
    accept_prob: Tensor,
    overlap: Tensor | None,  # [B, K] f32
    logprobs: Tensor | None,  # [B, K+1] f32
) -> None:
    batch, slots = draft_tokens.shape
    state = StateRows(rows, seed.shape[0], seed.device)
    live = live & state.known
    sampling = Sampling(temperature, top_k, top_p, min_p).map(state.of)
    target = target_rows(target_logits, row_start, token_mask, sampling, rule, slots + 1)
    vocab = target.logits.shape[-1]
    draft = kept_draft(draft_tokens, draft_logits, logits_row, stats, t2d, rule, vocab)

    # `end` is the first slot that cannot be accepted whatever the noise: L' of the block rule.
    length = length.clamp(0, slots).long()
    slot = torch.arange(slots, device=seed.device)
    p_draft_x = draft_prob(draft)
    bad = bad_drafts(draft, p_draft_x, rule)
    end = leading((slot < length[:, None]) & (target.status[:, :slots] == OK) & ~bad)
    end_status = target.status.gather(-1, end[:, None])[:, 0]
    end_status = torch.where((end_status == OK) & (end < length), BAD_DRAFT, end_status)

    noise = Noise(state.of(seed), round, state.of(position))
    decision = decide(target, draft, p_draft_x, end, noise, rule)
    accepted, rejected = decision.accepted, decision.accepted < end
    emits = live & (rejected | (end_status == OK) | (end_status == BAD_DRAFT))
    count = torch.where(live, accepted, 0)
    total = count + emits
    all_slots = torch.arange(slots + 1, device=seed.device)
    out = torch.nn.functional.pad(draft_tokens, (0, 1), value=-1)
    out = torch.where(all_slots < accepted[:, None], out, -1)
    emitted = emitted_token(target, draft, decision, rejected, noise)
    at_end = (all_slots == accepted[:, None]) & emits[:, None]
    out = torch.where(at_end, emitted[:, None], out)
    decided = slot < (end if rule == BLOCK else accepted + rejected)[:, None]

    tokens.copy_(torch.where(live[:, None], out, -1))
    num_accepted.copy_(count)
    num_emitted.copy_(total)
    last = tokens.gather(-1, (total - 1).clamp(min=0)[:, None])[:, 0]
    last_token.copy_(torch.where(total > 0, last, 0))
    seen_status = end_status if rule == BLOCK else torch.where(rejected, OK, end_status)
    status.copy_(torch.where(live, seen_status, OK))
    accept_prob.copy_(torch.where(decided & live[:, None], decision.accept_prob, -1.0))
    if overlap is not None:
        p_draft = draft_distribution(draft, slot.expand(batch, -1))
        shared = torch.minimum(target.p_target[:, :slots], p_draft).sum(-1)
        overlap.copy_(torch.where((slot < end[:, None]) & live[:, None], shared, -1.0))
    if logprobs is not None:
        logprobs.copy_(emitted_logprobs(target, tokens, raw_logprobs))
    state.add(position, total)
