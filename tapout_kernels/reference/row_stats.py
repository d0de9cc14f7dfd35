"""Reference ``row_stats``: every statistic of a row of logits."""

from __future__ import annotations

from torch import Tensor

from .stats import Sampling, process, row_stats_of
from .vocab import allowed_ids, target_ids


def row_stats(
    logits: Tensor,  # [B, V]
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,  # [B, W] i32
    token: Tensor | None,  # [B] i64
    stats: Tensor,  # [B, 8] f32, written
) -> None:
    allowed = allowed_ids(token_mask, target_ids(None, logits.shape[-1], logits.device))
    rows = process(logits, Sampling(temperature, top_k, top_p, min_p), allowed)
    stats.copy_(row_stats_of(rows, token))
