"""Reference ``sample``: one token from the target alone, the same noise as an empty draft."""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import GREEDY, GUMBEL
from .gumbel import gumbel_index, gumbel_noise
from .rng import RESIDUAL, uniform
from .rows import StateRows
from .sampling import sample_index
from .stats import OK, Sampling, process
from .vocab import allowed_ids, target_ids


def sample(
    logits: Tensor,  # [B, V]
    temperature: Tensor | None,  # [R], and the other sampling parameters
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,  # [B, W] i32
    seed: Tensor,  # [R] i64
    live: Tensor | None,  # [B] bool
    rows: Tensor | None,  # [B] i32
    rule: int,
    rng_round: Tensor,  # [R] i64, advanced
    position: Tensor,  # [R] i64, advanced
    tokens: Tensor,  # [B] i64, written
) -> None:
    """``verify`` of an empty draft."""
    state = StateRows(rows, seed.shape[0], seed.device)
    live = state.known if live is None else live & state.known
    ids = target_ids(None, logits.shape[-1], logits.device)
    sampling = Sampling(temperature, top_k, top_p, min_p).map(state.of)
    processed = process(logits, sampling, allowed_ids(token_mask, ids), rule == GREEDY)
    if rule == GUMBEL:
        noise = gumbel_noise(state.of(seed), state.of(position), ids)
        token = gumbel_index(processed, noise)
    else:
        round = state.of(rng_round)
        u = uniform(state.of(seed), 0, torch.zeros_like(round), round, RESIDUAL)
        token = sample_index(processed.probs, u)
    emits = live & (processed.status == OK)
    tokens.copy_(torch.where(emits, token, -1))
    state.add(rng_round, live)
    state.add(position, emits)
