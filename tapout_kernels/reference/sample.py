"""Reference ``sample``: one token from the target alone, the same noise as an empty draft."""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import GREEDY
from .rng import RESIDUAL, uniform
from .sampling import sample_index
from .stats import OK, process


def sample(
    logits: Tensor,  # [B, V]
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    seed: Tensor,  # [B] i64
    live: Tensor | None,  # [B] bool
    rule: int,
    rng_round: Tensor,  # [B] i64, advanced
    position: Tensor,  # [B] i64, advanced
    tokens: Tensor,  # [B] i64, written
) -> None:
    """``verify`` of an empty draft."""
    live = torch.ones_like(tokens, dtype=torch.bool) if live is None else live
    processed = process(logits, temperature, top_k, top_p, rule == GREEDY)
    u = uniform(seed, 0, torch.zeros_like(rng_round), rng_round, RESIDUAL)
    token = sample_index(processed.probs, u)
    emits = live & (processed.status == OK)
    tokens.copy_(torch.where(emits, token, -1))
    rng_round.add_(live)
    position.add_(emits)
