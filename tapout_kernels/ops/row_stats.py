"""``row_stats``: log-sum-exp, entropy and top probabilities of rows of logits in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from .._check import require_tensor
from ..backends import call
from ..types import NUM_STATS, SamplingParams


def row_stats(
    logits: Tensor,  # [B, V]
    sampling: SamplingParams | None = None,
    *,
    token_mask: Tensor | None = None,  # [B, ceil(V/32)]
    tokens: Tensor | None = None,  # [B]
    out: Tensor | None = None,  # [B, 8]
    backend: str | None = None,
) -> Tensor:
    r"""Statistics of each row, the ones stop rules look at.

    With m = max z, s = :math:`\sum e^{(z-m)/T}`, D = :math:`\sum \frac{z-m}{T} e^{(z-m)/T}`:
    entropy = ln s - D/s (nats).

    Parameters
    ----------
    logits : Tensor
        [B, V] float32, bfloat16 or float16, any row stride, last dimension contiguous.
    sampling : SamplingParams, optional
        Temperature shapes every statistic; top-k, top-p and min-p only lse, token_logprob and
        cutoff.
    token_mask : Tensor, optional
        [B, ceil(V/32)] int32, bit 1 = allowed (the xgrammar layout); the rest counts as -inf.
    tokens : Tensor, optional
        [B] int64 ids whose processed log-probability goes to column 4 (else 0).
    out : Tensor, optional
        [B, 8] float32, written in place.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    Tensor
        [B, 8] float32: lse, entropy, top1_prob, top2_prob, token_logprob, cutoff, temperature
        (0 where it counts as 0), 0. NaN in the first six where a row has a NaN or +inf logit, no
        finite logit, or a negative or NaN temperature.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Examples
    --------
    >>> stats = row_stats(torch.zeros(1, 4))
    >>> round(stats[0, 1].item(), 4)  # entropy of four equal choices: ln 4
    1.3863
    """
    require_tensor("row_stats", "logits", logits)
    if out is None:
        shape = (*logits.shape[:1], NUM_STATS)
        out = torch.empty(shape, dtype=torch.float32, device=logits.device)
    call(
        "row_stats", backend, logits=logits, **(sampling or SamplingParams()).arguments(),
        token_mask=token_mask, token=tokens, stats=out,
    )  # fmt: skip
    return out
