"""Sampling by one uniform through the inverse CDF over fixed chunks of the vocabulary.

id = min { v : sum_{w <= v} weight_w > u * total }.  Chunk sums and the prefix inside the chosen
chunk are accumulated in ascending order, so the result does not depend on the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024


def sample_index(weights: Tensor, u: Tensor) -> Tensor:
    """[R, V] non-negative f64 weights (not normalised), [R] f64 uniforms -> [R] i64 ids."""
    chunks = _chunked(weights)  # [R, C, CHUNK]
    prefix = chunks.sum(-1).cumsum(-1)  # [R, C]
    target = (u * prefix[:, -1])[:, None]
    chunk = _first_above(prefix, target, chunks.sum(-1))
    base = torch.where(chunk > 0, prefix.gather(-1, (chunk - 1).clamp(min=0)), 0.0)
    inside = chunks.gather(1, chunk[:, :, None].expand(-1, 1, CHUNK))[:, 0]  # [R, CHUNK]
    offset = _first_above(base + inside.cumsum(-1), target, inside)
    return (chunk * CHUNK + offset)[:, 0]


def total_weight(weights: Tensor) -> Tensor:
    """[R, V] -> [R], summed chunk by chunk: the same bits in any batch and on any thread count."""
    return _chunked(weights).sum(-1).cumsum(-1)[:, -1]


def _chunked(weights: Tensor) -> Tensor:
    rows, vocab = weights.shape
    padded = torch.nn.functional.pad(weights, (0, -vocab % CHUNK))
    return padded.view(rows, -1, CHUNK)


def _first_above(prefix: Tensor, target: Tensor, mass: Tensor) -> Tensor:
    """[R, 1] first index whose prefix exceeds the target, at most the last of positive mass."""
    index = (prefix <= target).sum(-1, keepdim=True)
    positions = torch.arange(mass.shape[-1], device=mass.device)
    last = torch.where(mass > 0, positions, 0).amax(-1, keepdim=True)
    return torch.minimum(index, last)
