"""Reference ``verify``: accept drafts, emit one more token, advance positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .accept import BLOCK, LOSSY_ADASD, LOSSY_RULES, leading
from .decide import Decision, Noise, decide, emitted_token
from .draft import (
    Draft,
    bad_drafts,
    draft_distribution,
    draft_prob,
    foreign_drafts,
    kept_draft,
)  # fmt: skip
from .lossy import decide_lossily, draft_distance, remember, require_memory
from .rows import StateRows
from .stats import BAD_DRAFT, OK, Sampling
from .target import Target, emitted_logprobs, target_rows


class Given(NamedTuple):
    """Both sides of a verification and where its noise is."""

    target: Target
    draft: Draft
    p_draft_x: Tensor  # [B, K] f64 of the drafted tokens
    live: Tensor  # [B] bool
    end: Tensor  # [B] i64: no slot from there on can be accepted, whatever the noise
    end_status: Tensor  # [B] i32 of that row
    foreign: Tensor  # [B, K] bool: drafted ids the target does not have; the draft ends after one
    noise: Noise
    state: StateRows


def given(
    target_logits: Tensor,  # [B, K+1, V], or [n, V] with row_start
    row_start: Tensor | None,  # [B+1] i32
    sampling: Sampling,  # [R] each
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
    position: Tensor,  # [R] i64
) -> Given:
    """Read the arguments of ``verify``."""
    slots = draft_tokens.shape[1]
    state = StateRows(rows, seed.shape[0], seed.device)
    each = sampling.map(state.of)
    target = target_rows(target_logits, row_start, token_mask, each, rule, slots + 1)
    vocab = target.logits.shape[-1]
    draft = kept_draft(draft_tokens, draft_logits, logits_row, stats, t2d, rule, vocab)
    p_draft_x = draft_prob(draft)

    length = length.clamp(0, slots).long()
    foreign = foreign_drafts(draft, rule)
    inside = torch.arange(slots, device=seed.device) < length[:, None]
    usable = inside & (target.status[:, :slots] == OK) & ~bad_drafts(draft, p_draft_x, rule)
    usable[:, 1:] &= foreign[:, :-1].cumsum(-1) == 0
    end = leading(usable)
    end_status = target.status.gather(-1, end[:, None])[:, 0]
    end_status = torch.where((end_status == OK) & (end < length), BAD_DRAFT, end_status)
    after_foreign = foreign.gather(-1, (end - 1).clamp(min=0)[:, None])[:, 0] & (end > 0)
    end_status = torch.where(after_foreign, BAD_DRAFT, end_status)
    noise = Noise(state.of(seed), round, state.of(position))
    live = live & state.known
    return Given(target, draft, p_draft_x, live, end, end_status, foreign, noise, state)


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
    lossy_memory: Tensor | None,  # [R, 4] f64, advanced
) -> None:
    require_memory(rule, lossy_memory)
    g = given(
        target_logits, row_start, Sampling(temperature, top_k, top_p, min_p), token_mask, seed,
        rows, draft_tokens, length, live, round, draft_logits, logits_row, t2d, stats, rule,
        position,
    )  # fmt: skip
    distance = draft_distance(g.target, g.draft) if rule == LOSSY_ADASD else None
    if rule in LOSSY_RULES.values():
        memory = g.state.of(lossy_memory)
        decision = decide_lossily(
            g.target, g.draft, g.p_draft_x, g.end, g.noise, rule, distance, memory
        )
    else:
        decision = decide(g.target, g.draft, g.p_draft_x, g.end, g.noise, rule)
    rejected = decision.accepted < g.end
    emits = g.live & (rejected | (g.end_status == OK) | (g.end_status == BAD_DRAFT))
    count = torch.where(g.live, decision.accepted, 0)
    total = count + emits
    tokens.copy_(torch.where(g.live[:, None], _emitted(g, decision, rejected, emits), -1))
    num_accepted.copy_(count)
    num_emitted.copy_(total)
    last = tokens.gather(-1, (total - 1).clamp(min=0)[:, None])[:, 0]
    last_token.copy_(torch.where(total > 0, last, 0))
    # A rejection hides what comes after it, except from `block`, which looks at every row.
    slot = decision.accepted.clamp(max=draft_tokens.shape[1] - 1)[:, None]
    rejection = torch.where(g.foreign.gather(-1, slot)[:, 0], BAD_DRAFT, OK)
    seen_status = g.end_status if rule == BLOCK else torch.where(rejected, rejection, g.end_status)
    status.copy_(torch.where(g.live, seen_status, OK))
    decided = g.end if rule == BLOCK else decision.accepted + rejected
    _fill(accept_prob, decision.accept_prob, decided, g.live)
    if overlap is not None:
        _fill(overlap, _overlap(g), g.end, g.live)
    if logprobs is not None:
        logprobs.copy_(emitted_logprobs(g.target, tokens, raw_logprobs))
    if distance is not None:
        judged = rejected & (rejection == OK)
        g.state.add(lossy_memory, remember(distance, decision.accepted, judged, g.live))
    g.state.add(position, total)


def _emitted(g: Given, decision: Decision, rejected: Tensor, emits: Tensor) -> Tensor:
    """[B, K+1] the accepted drafts and the token after them, -1 elsewhere."""
    slot = torch.arange(g.draft.tokens.shape[1] + 1, device=g.end.device)
    end = decision.accepted[:, None]
    out = torch.nn.functional.pad(g.draft.tokens, (0, 1), value=-1)
    out = torch.where(slot < end, out, -1)
    last = emitted_token(g.target, g.draft, decision, rejected, g.noise)
    return torch.where((slot == end) & emits[:, None], last[:, None], out)


def _fill(out: Tensor, values: Tensor, length: Tensor, live: Tensor) -> None:
    """[B, K] values of the first ``length`` slots, -1 in the others and in dead rows."""
    inside = torch.arange(out.shape[1], device=out.device) < length[:, None]
    out.copy_(torch.where(inside & live[:, None], values, -1.0))


def _overlap(g: Given) -> Tensor:
    batch, slots = g.draft.tokens.shape
    every_slot = torch.arange(slots, device=g.end.device).expand(batch, -1)
    p_draft = draft_distribution(g.draft, every_slot)
    return torch.minimum(g.target.p_target[:, :slots], p_draft).sum(-1)
