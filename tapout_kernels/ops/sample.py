"""``sample``: one token from processed logits, with addressed noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .._check import require_tensor
from ..backends import call
from ..types import RngState, SamplingParams
from ._rules import rule_id


def sample(
    logits: Tensor,  # [B, V]
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    rule: str = "token",
    live: Tensor | None = None,  # [B]
    token_mask: Tensor | None = None,  # [B, ceil(V/32)]
    rows: Tensor | None = None,  # [B]
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
    rule : {"token", "block", "gumbel", "greedy"}
        ``gumbel``: the argmax of z/T + G, G a function of (seed, position, id) alone; ``greedy``:
        the argmax whatever ``sampling`` says; ``token`` and ``block`` sample alike.
    live : Tensor, optional
        [B] bool; other rows emit -1 and change no state.
    token_mask : Tensor, optional
        [B, ceil(V/32)] int32, bit 1 = allowed (the xgrammar layout).
    rows : Tensor, optional
        [B] int32, the row of ``sampling`` and ``rng`` that belongs to each batch row (engines keep
        state per request slot); one outside them counts as not live. None: row b.
    out : Tensor, optional
        [B] int64, written in place.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

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
    require_tensor("sample", "logits", logits)
    if out is None:
        out = torch.empty(logits.shape[:1], dtype=torch.int64, device=logits.device)
    call(
        "sample", backend, logits=logits, **(sampling or SamplingParams()).arguments(),
        token_mask=token_mask, seed=rng.seed, live=live, rows=rows, rule=rule_number,
        rng_round=rng.round, position=rng.position, tokens=out,
    )  # fmt: skip
    return out
