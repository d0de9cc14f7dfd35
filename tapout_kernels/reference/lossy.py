"""Lossy acceptance: tokens stay that the target alone would not have emitted as often.

Every rule is defined on the processed distributions, its entropies H (nats) included, and none
accepts a token of p_target = 0: masks and filters hold, and at temperature 0 all emit the argmax.
The constants are the published defaults; csrc/core/accept.h says where each is from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .accept import (
    LOSSY_ADASD,
    LOSSY_CONSULTANT,
    LOSSY_EARS,
    LOSSY_FLY,
    LOSSY_TYPICAL,
    leading,
)
from .decide import Decision, Noise, target_prob
from .draft import Draft, draft_distribution
from .sampling import total_weight
from .target import Target

TYPICAL_EPSILON, TYPICAL_DELTA = 0.3, 0.09
EARS_BETA = 0.3
CONSULTANT_BETA, CONSULTANT_EPSILON = 0.2, 2.0
FLY_THETA, FLY_WINDOW = 0.3, 6
NUM_MEMORY = 4  # of lossy_adasd: sum and count of accepted distances, then of rejected ones


def require_memory(rule: int, memory: Tensor | None) -> None:
    """Raise unless ``lossy_memory`` is given exactly where the rule has one."""
    if (rule == LOSSY_ADASD) != (memory is not None):
        expected = "a Tensor for rule lossy_adasd" if memory is None else "None for this rule"
        raise ValueError(f"verify: lossy_memory must be {expected}, got {type(memory).__name__}")


def decide_lossily(
    target: Target,
    draft: Draft,
    p_draft_x: Tensor,
    end: Tensor,
    noise: Noise,
    rule: int,
    distance: Tensor | None,  # [B, K] of lossy_adasd
    memory: Tensor | None,  # [B, 4]
) -> Decision:
    """``end`` [B]: no slot from there on can be accepted."""
    slots = draft.tokens.shape[1]
    possible = torch.arange(slots, device=end.device) < end[:, None]
    p_target_x = target_prob(target, draft)
    chosen = None
    if rule == LOSSY_TYPICAL:
        good = typical(p_target_x, entropy(target)[:, :slots])
    elif rule == LOSSY_CONSULTANT:
        good = consultant(p_target_x)
    elif rule == LOSSY_EARS:
        tolerance = EARS_BETA * (1 - target.p_target[:, :slots].amax(-1))
        good = ears(noise.accept(slots), p_target_x, p_draft_x, tolerance)
    else:
        chosen = argmax(target)
        match = (chosen[:, :slots] == draft.tokens) & possible
        if rule == LOSSY_FLY:
            survives = fly(match, entropy(target)[:, :slots], target.logits.shape[-1])
        else:
            survives = distance <= threshold(memory)[:, None]
        good = match | survives
    good = good & (p_target_x > 0)
    prob = good.double()
    if rule == LOSSY_EARS:
        ratio = p_target_x / p_draft_x.clamp(min=1e-300)
        prob = torch.where(p_target_x > 0, (ratio + tolerance).clamp(max=1.0), 0.0)
    one = torch.ones_like(p_draft_x[:, 0])
    return Decision(leading(good & possible), prob, one, chosen, rule == LOSSY_EARS)


def typical(p_target_x: Tensor, entropy: Tensor) -> Tensor:
    return p_target_x > (TYPICAL_DELTA * (-entropy).exp()).clamp(max=TYPICAL_EPSILON)


def ears(u: Tensor, p_target_x: Tensor, p_draft_x: Tensor, tolerance: Tensor) -> Tensor:
    return (u - tolerance) * p_draft_x < p_target_x


def consultant(p_target_x: Tensor) -> Tensor:
    """[B, K] the running doubt is small enough; it starts at 0 in every draft."""
    surprise = -p_target_x.log()
    doubt, good = torch.zeros_like(surprise[:, 0]), []
    for slot in range(surprise.shape[1]):
        doubt = CONSULTANT_BETA * doubt + (1 - CONSULTANT_BETA) * surprise[:, slot]
        good.append(doubt <= CONSULTANT_EPSILON)
    return torch.stack(good, -1)


def fly(match: Tensor, entropy: Tensor, vocab: int) -> Tensor:
    """[B, K] the target is unsure, and the next drafts are all what it would emit."""
    slots = match.shape[1]
    windows = torch.nn.functional.pad(match, (0, FLY_WINDOW)).unfold(1, FLY_WINDOW, 1)
    return windows[:, 1 : slots + 1].all(-1) & (entropy >= FLY_THETA * math.log(vocab))


def threshold(memory: Tensor) -> Tensor:
    """[B, 4] -> [B] the midpoint of both means; below every distance until both exist."""
    sums, counts = memory[:, 0::2], memory[:, 1::2]
    known = (counts > 0).all(-1)
    means = sums / torch.where(counts > 0, counts, 1.0)
    return torch.where(known, (means[:, 0] + means[:, 1]) / 2, -1.0)


def remember(distance: Tensor, accepted: Tensor, rejected: Tensor, live: Tensor) -> Tensor:
    """[B, 4] what a round adds to the memory."""
    slot = torch.arange(distance.shape[1], device=distance.device)
    kept = (slot < accepted[:, None]) & live[:, None]
    refused = (slot == accepted[:, None]) & (rejected & live)[:, None]
    columns = []
    for those in (kept, refused):
        columns += [torch.where(those, distance, 0.0).cumsum(-1)[:, -1], those.sum(-1).double()]
    return torch.stack(columns, -1)


def argmax(target: Target) -> Tensor:
    """[B, K+1] lowest index on ties, of the row as it was masked."""
    return target.processed.logits.argmax(-1).view(target.status.shape)


def entropy(target: Target) -> Tensor:
    """[B, K+1] of the processed distributions, in nats."""
    probs = target.processed.probs
    return total_weight(-torch.xlogy(probs, probs)).view(target.status.shape)


def draft_distance(target: Target, draft: Draft) -> Tensor:
    """[B, K] Jensen-Shannon distance of p_target and p_draft over the target's ids, in nats."""
    batch, slots = draft.tokens.shape
    every_slot = torch.arange(slots, device=draft.tokens.device).expand(batch, -1)
    p_target = target.p_target[:, :slots]
    terms = divergence_terms(p_target, draft_distribution(draft, every_slot))
    total = total_weight(terms.flatten(0, 1)).view(batch, slots)
    return total.clamp(min=0).sqrt()


def divergence_terms(left: Tensor, right: Tensor) -> Tensor:
    """Parts of (KL(left, mean) + KL(right, mean)) / 2; none is negative, so no sum cancels."""
    both = left + right
    d = (left - right) / torch.where(both > 0, both, 1.0)
    sides = torch.special.xlog1py(1 + d, d) + torch.special.xlog1py(1 - d, -d)
    return both / 4 * sides
