"""The processed distribution of a row and its statistics, in float64.

With m = max z, w = exp((z - m)/T), s = sum w, D = sum w (z - m)/T:
entropy = ln s - D/s (two non-negative terms), top-1 probability = 1/s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .sampling import total_weight

OK, NAN, EMPTY, BAD_DRAFT = range(4)  # status of a row or a verdict
LSE, ENTROPY, TOP1_PROB, TOP2_PROB, TOKEN_LOGPROB, CUTOFF, TEMPERATURE, ACCEPT_ESTIMATE = range(8)
NUM_STATS = 8  # columns of a row of statistics
LARGEST_TEMPERATURE = 2.0**126  # anything above counts as this, infinity too
ZERO_TEMPERATURE = 1e-5  # below (float32(1e-5) is): the distribution is the argmax


class Sampling(NamedTuple):
    """Sampling parameters of R rows; None is off for every row."""

    temperature: Tensor | None = None  # [R] f32
    top_k: Tensor | None = None  # [R] i32
    top_p: Tensor | None = None  # [R] f32
    min_p: Tensor | None = None  # [R] f32

    def map(self, change: Callable[[Tensor], Tensor]) -> Sampling:
        return Sampling(*(None if value is None else change(value) for value in self))


class Processed(NamedTuple):
    """R rows after mask, temperature and filters; invalid rows hold harmless values."""

    logits: Tensor  # [R, V] f64, 0 in invalid rows
    weights: Tensor  # [R, V] f64 exp((z - max)/T), 0 where cut; one-hot at temperature 0
    temperature: Tensor  # [R] f64, 0 where it counts as 0
    cutoff: Tensor  # [R] f64, an actual logit: z >= cutoff is kept
    status: Tensor  # [R] i32: OK, NAN or EMPTY

    @property
    def probs(self) -> Tensor:  # [R, V]
        return self.weights / total_weight(self.weights)[:, None]


def process(
    logits: Tensor,  # [R, V]
    sampling: Sampling,
    allowed: Tensor | None = None,  # [R, V] bool
    greedy: bool = False,
) -> Processed:
    """Mask, temperature, top-k, top-p, min-p (Hugging Face order, ties at a cutoff kept)."""
    z = logits.double()
    if allowed is not None:
        z = torch.where(allowed, z, -torch.inf)
    if greedy:
        sampling = Sampling(z.new_zeros(z.shape[0]))
    t = z.new_ones(z.shape[0]) if sampling.temperature is None else sampling.temperature.double()
    status = row_status(z, t)
    t = t.clamp(max=LARGEST_TEMPERATURE)
    z = torch.where((status == OK)[:, None], z, 0.0)
    t = torch.where((t < ZERO_TEMPERATURE) | (status != OK), 0.0, t)
    weights = _weights(z, torch.where(t > 0, t, 1.0))
    cutoff = _cutoff(z, weights, sampling)
    weights = torch.where(z >= cutoff[:, None], weights, 0.0)
    first_max = torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).double()
    cutoff = torch.where(t > 0, cutoff, z.amax(-1))
    weights = torch.where((t > 0)[:, None], weights, first_max)
    return Processed(z, weights, t, cutoff, status)


def row_status(z: Tensor, temperature: Tensor) -> Tensor:
    """NAN for a NaN or +inf logit or a NaN or negative temperature, EMPTY when all are -inf."""
    bad = (z.isnan() | z.isposinf()).any(-1) | ~(temperature >= 0)
    empty = z.isneginf().all(-1)
    return torch.where(bad, NAN, torch.where(empty, EMPTY, OK)).int()


def row_stats_of(rows: Processed, token: Tensor | None) -> Tensor:
    """The [R, 8] float32 statistics: softmax shape before the filters, token after them."""
    z, t = rows.logits, rows.temperature
    t_stat = torch.where(t > 0, t, 1.0)
    unfiltered = _weights(z, t_stat)
    s = total_weight(unfiltered)
    offset = (z - z.amax(-1, keepdim=True)) / t_stat[:, None]
    d = total_weight(torch.where(unfiltered > 0, offset * unfiltered, 0.0))
    top = z.topk(min(2, z.shape[-1]), dim=-1).values
    second = _weights(top, t_stat)[:, 1] / s if top.shape[-1] > 1 else torch.zeros_like(s)
    lse = z.amax(-1) / t_stat + total_weight(rows.weights).log()
    logprob = torch.zeros_like(s) if token is None else token_logprob(rows, token)
    columns = [lse, s.log() - d / s, 1 / s, second, logprob, rows.cutoff]
    stats = torch.stack(columns, -1)
    stats = torch.where((rows.status == OK)[:, None], stats, torch.nan)
    return torch.cat([stats, t[:, None], torch.zeros_like(t)[:, None]], -1).float()


def _weights(z: Tensor, t: Tensor) -> Tensor:
    maximum = z.amax(-1, keepdim=True)
    return torch.where(z.isneginf(), 0.0, ((z - maximum) / t[:, None]).exp())


def _cutoff(z: Tensor, weights: Tensor, sampling: Sampling) -> Tensor:
    """[R] the smallest kept logit."""
    descending, order = z.sort(dim=-1, descending=True)
    weights = weights.gather(-1, order)
    finite = (descending > -torch.inf).sum(-1, keepdim=True)
    last = finite - 1  # [R, 1] index of the smallest kept logit in descending order
    if sampling.top_k is not None:
        k = sampling.top_k.long()[:, None]
        kth = descending.gather(-1, k.clamp(1, z.shape[-1]) - 1)
        kept = torch.minimum((descending >= kth).sum(-1, keepdim=True), finite)  # ties are kept
        last = torch.where((k > 0) & (k < z.shape[-1]), kept - 1, last)
    if sampling.top_p is not None:
        mass = weights.cumsum(-1)
        limit = sampling.top_p.double()[:, None]
        reached = mass < limit * mass.gather(-1, last)
        first = torch.minimum(reached.sum(-1, keepdim=True), last)
        last = torch.where(limit < 1, first, last)
    if sampling.min_p is not None:
        limit = sampling.min_p.double()[:, None].clamp(max=1.0)
        kept = (weights >= limit).sum(-1, keepdim=True)
        last = torch.where(limit > 0, torch.minimum(kept - 1, last), last)
    return descending.gather(-1, last.clamp(min=0))[:, 0]


def token_logprob(rows: Processed, token: Tensor) -> Tensor:
    """[R] f64 processed log-probability; -inf for an id that is cut or outside the vocabulary."""
    inside = (token >= 0) & (token < rows.weights.shape[-1])
    index = torch.where(inside, token, 0)[:, None]
    z = rows.logits.gather(-1, index)[:, 0]
    # By the cutoff, not by its weight, which may underflow where its logarithm does not.
    kept = inside & (z >= rows.cutoff) & ~z.isneginf()
    kept &= (rows.temperature > 0) | (rows.weights.gather(-1, index)[:, 0] > 0)
    t = torch.where(rows.temperature > 0, rows.temperature, 1.0)
    offset = (z - rows.logits.amax(-1)) / t
    return torch.where(kept, offset - total_weight(rows.weights).log(), -torch.inf)
