"""Sampling by the Gumbel maximum (drafter-invariant, 2408.07978): argmax of z/T + G.

The noise of target id v at a position is a function of (seed, position, v) alone, so a draft and
the target that share a position share the noise, whatever drafted and in whatever batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rng import GUMBEL, MASK32, philox4x32
from .stats import Processed

_LARGEST = 1 - 2.0**-24


def gumbel_noise(seed: Tensor, position: Tensor, ids: Tensor) -> Tensor:
    """[R] seeds and positions, [D] target ids -> [R, D] f64; one Philox block serves four ids."""
    seed, position, ids = torch.broadcast_tensors(seed[:, None], position[:, None], ids)
    counter = (ids >> 2, position & MASK32, position >> 32 & MASK32, torch.full_like(ids, GUMBEL))
    words = philox4x32(counter, (seed & MASK32, seed >> 32 & MASK32))
    word = torch.stack(words, -1).gather(-1, (ids & 3)[..., None])[..., 0]
    v = ((word.double() + 0.5) * 2.0**-32).clamp(max=_LARGEST)
    return -(-(-v).log1p()).log()  # through 1 - v: the upper tail keeps all its bits


def gumbel_index(rows: Processed, noise: Tensor) -> Tensor:
    """[R] i64: the kept id of the largest z/T + noise; the argmax where T counts as 0."""
    t = rows.temperature[:, None]
    kept = (rows.logits >= rows.cutoff[:, None]) & ~rows.logits.isneginf()
    score = torch.where(kept, rows.logits / torch.where(t > 0, t, 1.0) + noise, -torch.inf)
    return torch.where(t > 0, score, rows.weights).argmax(-1)
