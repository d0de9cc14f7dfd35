"""The draft's side of a verification: which distribution every drafted token was drawn from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .accept import GREEDY, GUMBEL
from .rows import StateRows
from .stats import CUTOFF, TEMPERATURE, TOKEN_LOGPROB
from .vocab import draft_ids


class Draft(NamedTuple):
    """B requests of K drafted tokens; ``logits`` None: every draft is one-hot."""

    tokens: Tensor  # [B, K] i64 target ids
    logits: Tensor | None  # [B, K, D]
    stats: Tensor  # [B, K, 8]
    t2d: Tensor | None  # [T] i32
    known: Tensor  # [B] bool: there are kept logits for this row
    vocab: int

    @property
    def inside(self) -> Tensor:  # [B, K]
        return (self.tokens >= 0) & (self.tokens < self.vocab)

    @property
    def ids(self) -> Tensor:
        """[B, K] draft ids of the drafted tokens, -1 where there is none."""
        ids = draft_ids(self.tokens, self.t2d)
        return torch.where(self.inside, ids, -1) if self.t2d is None else ids


def kept_draft(
    tokens: Tensor,
    logits: Tensor | None,  # [L, K, D]
    logits_row: Tensor | None,  # [B] i32
    stats: Tensor,
    t2d: Tensor | None,
    rule: int,
    vocab: int,
) -> Draft:
    """``greedy`` takes every draft as one-hot."""
    known = torch.ones_like(tokens[:, 0], dtype=torch.bool)
    if logits is None or rule == GREEDY:
        return Draft(tokens, None, stats, None, known, vocab)
    rows = StateRows(logits_row, logits.shape[0], logits.device)
    return Draft(tokens, rows.of(logits), stats, t2d, rows.known, vocab)


def draft_prob(draft: Draft) -> Tensor:
    """[B, K] f64 probability with which each drafted token was drawn; 0 where unknown."""
    if draft.logits is None:
        return torch.ones_like(draft.stats[..., 0], dtype=torch.float64)
    drawn = draft.stats[..., TOKEN_LOGPROB].double().exp().clamp(max=1.0)
    return torch.where(draft.known[:, None] & (draft.ids >= 0), drawn, 0.0)


def bad_drafts(draft: Draft, p_draft_x: Tensor, rule: int) -> Tensor:
    """[B, K] bool: cannot have been drawn, so that the draft ends before it.

    An id outside the vocabulary or, where it matters, of p_draft = 0 or NaN; but see below.
    """
    if rule not in (GUMBEL, GREEDY):
        return ~((draft.inside | foreign_drafts(draft, rule)) & (p_draft_x > 0))
    return ~draft.inside


def foreign_drafts(draft: Draft, rule: int) -> Tensor:
    """[B, K] bool: drawn from a draft vocabulary, but no id of the target.

    Its p_target is 0: it is rejected and the residual emitted. Ending the draft before it would
    drop a token for what it is, which is not lossless.
    """
    if rule in (GUMBEL, GREEDY) or draft.logits is None:
        return torch.zeros_like(draft.inside)
    return ~draft.inside & (draft.ids >= 0)


def draft_distribution(draft: Draft, slot: Tensor) -> Tensor:
    """[B, S] slots -> [B, S, V] f64 p_draft over target ids.

    Rebuilt from the kept row relative to the drafted token's own logit, so no precision is lost
    at small temperatures.
    """
    rows = torch.arange(slot.shape[0], device=slot.device)[:, None]
    token = draft.tokens[rows, slot].clamp(0, draft.vocab - 1)
    point = torch.nn.functional.one_hot(token, draft.vocab).double()
    point = point * draft.inside[rows, slot][..., None]
    if draft.logits is None:
        return point
    certain = draft.stats[rows, slot][..., TEMPERATURE, None] == 0
    return torch.where(certain, point, over_target(full_distribution(draft, slot), draft))


def full_distribution(draft: Draft, slot: Tensor) -> Tensor:
    """[B, S] slots -> [B, S, D] f64 p_draft over draft ids, of rows whose temperature is not 0."""
    rows = torch.arange(slot.shape[0], device=slot.device)[:, None]
    stats = draft.stats[rows, slot].double()
    z = draft.logits[rows, slot].double()  # [B, S, D]
    z_token = z.gather(-1, draft.ids[rows, slot].clamp(min=0)[..., None])
    t = torch.where(stats[..., TEMPERATURE] > 0, stats[..., TEMPERATURE], 1.0)[..., None]
    log_prob = stats[..., TOKEN_LOGPROB, None] + (z - z_token) / t
    kept = (z >= stats[..., CUTOFF, None]) & ~z.isneginf()
    known = draft_prob(draft)[rows, slot][..., None] > 0
    return torch.where(kept & known, log_prob.exp(), 0.0)


def over_target(probs: Tensor, draft: Draft) -> Tensor:
    """[B, S, D] over draft ids -> [B, S, V] over target ids, 0 where the draft has no such id."""
    if draft.t2d is None:
        return probs
    ids = draft_ids(torch.arange(draft.vocab, device=probs.device), draft.t2d)
    return torch.where(ids >= 0, probs[..., ids.clamp(min=0)], 0.0)
