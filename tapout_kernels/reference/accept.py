"""Acceptance: which drafted tokens stay, and what is emitted where they end.

``token`` (Leviathan et al. 2023, Chen et al. 2023): accept x iff u * p_draft(x) < p_target(x);
after a rejection emit from norm[p_target - p_draft]_+, whose law makes the emitted token exactly
p_target distributed.  ``block`` (Sun et al. 2403.10444) decides on the whole draft at once.  Rules
named ``lossy_*`` are in :mod:`.lossy`.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKEN, BLOCK, GUMBEL, GREEDY = range(4)
RULES = {"token": TOKEN, "block": BLOCK, "gumbel": GUMBEL, "greedy": GREEDY}
LOSSY_TYPICAL, LOSSY_EARS, LOSSY_CONSULTANT, LOSSY_FLY, LOSSY_ADASD = range(4, 9)
LOSSY_RULES = {
    "lossy_typical": LOSSY_TYPICAL, "lossy_ears": LOSSY_EARS,
    "lossy_consultant": LOSSY_CONSULTANT, "lossy_fly": LOSSY_FLY, "lossy_adasd": LOSSY_ADASD,
}  # fmt: skip
VERIFY_RULES = {**RULES, **LOSSY_RULES}


def accept(u: Tensor, p_draft: Tensor, p_target: Tensor) -> Tensor:
    """Strict, with u inside (0, 1): p_draft = p_target always accepts, p_target = 0 never."""
    return u * p_draft < p_target


def residual(p_target: Tensor, p_draft: Tensor) -> Tensor:
    """[..., V] weights of norm[p_target - p_draft]_+; p_target may be scaled by block's w."""
    return (p_target - p_draft).clamp(min=0)


def leading(good: Tensor) -> Tensor:
    """[B, K] bool -> [B] i64, how many slots are good before the first that is not."""
    return good.long().cumprod(-1).sum(-1)


def block_weights(ratio: Tensor) -> Tensor:
    """[B, K] p_target(x)/p_draft(x) -> [B, K+1] w: w_0 = 1, w_i = min(1, w_{i-1} ratio_i)."""
    weights = [torch.ones_like(ratio[:, 0])]
    for i in range(ratio.shape[1]):
        weights.append((weights[-1] * ratio[:, i]).clamp(max=1.0))
    return torch.stack(weights, -1)


def block_accepted(
    u: Tensor,  # [B, K]
    weights: Tensor,  # [B, K+1] w
    mass: Tensor,  # [B, K] S_i = sum [w_i p_target(row i) - p_draft(slot i)]_+
    length: Tensor,  # [B] i64 L
) -> Tensor:
    """[B] i64: the largest accepted level, 0 if none.  All levels are looked at.

    Level i < L is accepted iff u_i (S_i + 1 - w_i) < S_i (always where w_i = 1 and S_i = 0),
    level L iff u_L < w_L; u_i is that of slot i - 1.
    """
    level = torch.arange(1, u.shape[1] + 1, device=u.device)
    w = weights[:, 1:]
    s = torch.nn.functional.pad(mass[:, 1:], (0, 1))  # the last level never needs it
    inner = (u * (s + 1 - w) < s) | ((w == 1) & (s == 0))
    accepted = torch.where(level == length[:, None], u < w, inner) & (level <= length[:, None])
    return torch.where(accepted, level, 0).amax(-1)
