"""``sample``: one token from processed logits, with addressed noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import call, refuse
from ..types import RngState, SamplingParams
from ._rules import rule_id


def sample(
    logits: Tensor,  # [B, V]
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    rule: str = "token",
    live: Tensor | None = None,  # [B]
    token_mask: Tensor | None = None,
    rows: Tensor | None = None,
    out: Tensor | None = None,  # [B]
    backend: str | None = None,
) -> Tensor:
    """Sample one token for each request; equal to ``verify`` of an empty draft.

    Parameters
    ----------
    logits : Tensor
        [B, V] float32, bfloat16 or float16, any row stride, last dimension contiguous.
    sampling : SamplingParams or None
    rng : RngState
        ``round`` and ``position`` of live rows advance by one (``position`` only where a token
        was emitted).
    rule : {"token", "greedy"}
        ``greedy`` is the argmax whatever ``sampling`` says.
    live : Tensor, optional
        [B] bool; other rows emit -1 and change no state.
    out : Tensor, optional
        [B] int64, written in place.
    backend : {"reference", "cpu"}, optional
    token_mask, rows : optional
        Not supported in this version.

    Returns
    -------
    Tensor
        [B] int64 token ids, -1 where the row is not live or invalid (NaN, +inf, nothing finite).

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 9.0, 1.0]])
    >>> sample(logits, SamplingParams(), RngState.of(0), rule="greedy").tolist()
    [1]
    """
    rule_number = rule_id("sample", rule)
    sampling = sampling or SamplingParams()
    refuse("sample", token_mask=token_mask, rows=rows, min_p=sampling.min_p)
    if out is None:
        out = torch.empty_like(rng.position)
    call(
        "sample", backend, logits=logits, temperature=sampling.temperature,
        top_k=sampling.top_k, top_p=sampling.top_p, seed=rng.seed, live=live, rule=rule_number,
        rng_round=rng.round, position=rng.position, tokens=out,
    )  # fmt: skip
    return out
