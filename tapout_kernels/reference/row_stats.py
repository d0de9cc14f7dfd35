"""Reference ``row_stats``: every statistic of a row of logits."""

from __future__ import annotations

from torch import Tensor

from .stats import process, row_stats_of


def row_stats(
    logits: Tensor,  # [B, V]
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    token: Tensor | None,  # [B] i64
    stats: Tensor,  # [B, 8] f32, written
) -> None:
    stats.copy_(row_stats_of(process(logits, temperature, top_k, top_p), token))
