"""Rejection sampling, rule ``token`` (Leviathan et al. 2023, Chen et al. 2023).

Accept x iff u * p_draft(x) < p_target(x); after a rejection emit from
norm[p_target - p_draft]_+, whose law makes the emitted token exactly p_target distributed.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKEN, BLOCK, GUMBEL, GREEDY = range(4)
RULES = {"token": TOKEN, "block": BLOCK, "gumbel": GUMBEL, "greedy": GREEDY}


def accept(u: Tensor, p_draft: Tensor, p_target: Tensor) -> Tensor:
    """Strict, with u inside (0, 1): p_draft = p_target always accepts, p_target = 0 never."""
    return u * p_draft < p_target


def residual(p_target: Tensor, p_draft: Tensor) -> Tensor:
    """[R, V] weights of norm[p_target - p_draft]_+, or p_target where no mass is left."""
    weights = (p_target - p_draft).clamp(min=0)
    return torch.where(weights.sum(-1, keepdim=True) > 0, weights, p_target)
