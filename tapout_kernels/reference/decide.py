"""How far a draft is accepted and what ends it, for every rule, given both distributions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .accept import BLOCK, GUMBEL, accept, block_accepted, block_weights, leading, residual
from .draft import Draft, draft_distribution
from .gumbel import gumbel_index, gumbel_noise
from .rng import ACCEPT, RESIDUAL, uniform
from .sampling import sample_index
from .target import Target
from .vocab import target_ids


class Noise(NamedTuple):
    """Where the randomness of each request is."""

    seed: Tensor  # [B] i64
    round: Tensor  # [B] i64
    position: Tensor  # [B] i64

    def accept(self, slots: int) -> Tensor:  # [B, K]
        slot = torch.arange(slots, device=self.seed.device)
        return uniform(self.seed[:, None], 0, slot, self.round[:, None], ACCEPT)

    def residual(self, slot: Tensor) -> Tensor:  # [B]
        return uniform(self.seed, 0, slot, self.round, RESIDUAL)


class Decision(NamedTuple):
    accepted: Tensor  # [B] i64
    accept_prob: Tensor  # [B, K] f64
    scale: Tensor  # [B] f64 of p_target in the residual: block's w, else 1
    chosen: Tensor | None  # [B, K+1] i64 the target's own tokens, where no row is drawn from
    residual: bool = True  # a rejection emits from the residual, not from p_target


def decide(
    target: Target, draft: Draft, p_draft_x: Tensor, end: Tensor, noise: Noise, rule: int
) -> Decision:
    """``end`` [B]: no slot from there on can be accepted."""
    batch, slots = draft.tokens.shape
    possible = torch.arange(slots, device=end.device) < end[:, None]
    one = torch.ones_like(p_draft_x[:, 0])
    if rule == GUMBEL:
        chosen = target_tokens(target, noise)
        same = chosen[:, :slots] == draft.tokens
        return Decision(leading(same & possible), same.double(), one, chosen)
    p_target, p_target_x = target.p_target[:, :slots], target_prob(target, draft)
    ratio = p_target_x / p_draft_x.clamp(min=1e-300)
    u = noise.accept(slots)
    if rule == BLOCK:
        weights = block_weights(ratio)
        p_draft = draft_distribution(
            draft, torch.arange(slots, device=end.device).expand(batch, -1)
        )
        mass = residual(weights[:, :-1, None] * p_target, p_draft).sum(-1)
        accepted = block_accepted(u, weights, mass, end)
        scale = weights.gather(-1, accepted[:, None])[:, 0]
        return Decision(accepted, ratio.clamp(max=1.0), scale, None)
    good = accept(u, p_draft_x, p_target_x) & possible
    return Decision(leading(good), ratio.clamp(max=1.0), one, None)


def target_prob(target: Target, draft: Draft) -> Tensor:
    """[B, K] p_target of each drafted token, 0 where it is no id of the target."""
    index = torch.where(draft.inside, draft.tokens, 0)[..., None]
    p_target = target.p_target[:, : draft.tokens.shape[1]]
    return torch.where(draft.inside, p_target.gather(-1, index)[..., 0], 0.0)


def target_tokens(target: Target, noise: Noise) -> Tensor:
    """[B, K+1] what the target alone samples at each row's position, with the Gumbel noise."""
    batch, rows, vocab = target.logits.shape
    position = noise.position[:, None] + torch.arange(rows, device=noise.position.device)
    ids = target_ids(None, vocab, position.device)
    gumbel = gumbel_noise(noise.seed.repeat_interleave(rows), position.view(-1), ids)
    return gumbel_index(target.processed, gumbel).view(batch, rows)


def emitted_token(
    target: Target, draft: Draft, decision: Decision, rejected: Tensor, noise: Noise
) -> Tensor:
    """[B] the token after the accepted ones: from the residual where a draft was rejected there."""
    at = decision.accepted[:, None]
    if decision.chosen is not None:
        return decision.chosen.gather(-1, at)[:, 0]
    rows = torch.arange(at.shape[0], device=at.device)
    p_target = target.p_target[rows, decision.accepted]
    p_draft = draft_distribution(draft, at.clamp(max=draft.tokens.shape[1] - 1))[:, 0]
    left = residual(decision.scale[:, None] * p_target, p_draft)
    use = rejected & (left.sum(-1) > 0)  # no mass left: rounding; p_target is right then
    use = use & decision.residual
    weights = torch.where(use[:, None], left, p_target)
    return sample_index(weights, noise.residual(decision.accepted))
