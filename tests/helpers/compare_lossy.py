"""Contract 7 for the lossy rules of ``verify``: which of their decisions were in doubt."""

from __future__ import annotations

import math

import torch

from tapout_kernels.reference import lossy
from tapout_kernels.reference.accept import (
    LOSSY_ADASD,
    LOSSY_CONSULTANT,
    LOSSY_EARS,
    LOSSY_FLY,
    LOSSY_TYPICAL,
)

from .compare import near


def check_levels(verification, accepted: int, end: int, b: int, context: str) -> None:
    """Every decision up to the one that ended the draft: right, or a near tie."""
    doubt = 0.0
    for slot in range(min(accepted + 1, end)):
        p_target = verification.p_target(b, slot)
        p_x = p_target[verification.args["draft_tokens"][b, slot]].item()
        doubt = lossy.CONSULTANT_BETA * doubt
        doubt -= (1 - lossy.CONSULTANT_BETA) * math.log(p_x) if p_x else -math.inf
        low, high = _sides(verification, b, slot, end, p_target, p_x, doubt)
        right = (p_x > 0 and low <= high) == (slot < accepted)
        assert right or near(low, high), f"{context} slot {slot}: {low}, {high}"


def _sides(verification, b, slot, end, p_target, p_x, doubt) -> tuple[float, float]:
    """Accepted where the first is at most the second."""
    given, rule = verification.given, verification.rule
    entropy = -torch.xlogy(p_target, p_target).sum().item()
    if rule == LOSSY_TYPICAL:
        limit = lossy.TYPICAL_DELTA * math.exp(-entropy)
        return min(lossy.TYPICAL_EPSILON, limit), p_x
    if rule == LOSSY_EARS:
        tolerance = lossy.EARS_BETA * (1 - p_target.max().item())
        u = given.noise.accept(verification.per - 1)[b, slot].item()
        return u, p_x / given.p_draft_x[b, slot].item() + tolerance
    if rule == LOSSY_CONSULTANT:
        return doubt, lossy.CONSULTANT_EPSILON
    drafted = verification.args["draft_tokens"][b].tolist()
    match = [drafted[i] == verification.argmax(b, i) for i in range(end)]
    if match[slot]:
        return 0.0, 1.0
    if rule == LOSSY_FLY:
        window = match[slot + 1 : slot + 1 + lossy.FLY_WINDOW]
        if len(window) < lossy.FLY_WINDOW or not all(window):
            return 1.0, 0.0
        return lossy.FLY_THETA * math.log(verification.vocab), entropy
    assert rule == LOSSY_ADASD
    terms = lossy.divergence_terms(p_target, verification.p_draft(b)[slot])
    memory = given.state.of(verification.args["lossy_memory"])[b]
    return terms.sum().sqrt().item(), lossy.threshold(memory[None]).item()
