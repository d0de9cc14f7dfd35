"""``draft_step``: statistics, sampling, the stop rule and all bookkeeping of one draft slot."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import call, refuse
from ..proposal import Proposal
from ..stop_rules import StopRules, StopState, rule_arguments
from ..types import RngState, SamplingParams
from ._rules import rule_id


def draft_step(
    logits: Tensor,  # [B, V]
    proposal: Proposal,
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    rules: StopRules | None = None,
    state: StopState | None = None,
    rule: str = "token",
    vocab: object | None = None,
    token_mask: Tensor | None = None,
    accept_estimate: Tensor | None = None,
    rows: Tensor | None = None,
    out: Tensor | None = None,  # [B]
    backend: str | None = None,
) -> Tensor:
    """Draft one token for every active row and decide on the device whether to go on.

    Fills slot ``length[b]``: samples from the processed distribution (inverse CDF, one addressed
    uniform), records the statistics, keeps the logits if the proposal does, applies the stop rule
    of the row's arm to the statistics, and counts the rows still active.

    Parameters
    ----------
    logits : Tensor
        [B, V] raw draft logits, float32, bfloat16 or float16, any row stride, last dimension
        contiguous; the dtype and V of ``proposal.logits`` where it keeps them.
    proposal : Proposal
        Written in place where active. Rule ``token`` needs one that keeps logits
        (``Proposal.empty(..., vocab=V)``), else the draft's distribution would be lost.
    sampling : SamplingParams or None
        What the draft is sampled with; it need not be the target's.
    rng : RngState
        Read only: the noise address is (seed, slot, ``proposal.round``).
    rules, state : StopRules, StopState, optional
        Without them drafting goes on to ``max_length``.
    rule : {"token", "greedy"}
        ``greedy`` drafts the argmax, whatever ``sampling`` says.
    out : Tensor, optional
        [B] int64, written in place.
    backend : {"reference", "cpu"}, optional
    vocab, token_mask, accept_estimate, rows : optional
        Not supported in this version.

    Returns
    -------
    Tensor
        [B] int64, the next input of the draft model: the token just drafted; inactive rows repeat
        their last one, 0 if there is none.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Notes
    -----
    A row of NaN, +inf or no finite logit stops with reason BAD_LOGITS and drafts nothing.
    Source of the loop: TapOut, arXiv 2511.02017; of each rule: see :class:`StopRules`.

    Examples
    --------
    >>> rng, draft = RngState.of([1, 2]), Proposal.empty(2, slots=4, vocab=3)
    >>> draft.reset(rng)
    >>> token = draft_step(torch.tensor([[0.0, 9.0, 0.0]]).expand(2, 3), draft,
    ...                    SamplingParams.of(2, temperature=0.0), rng)
    >>> token.tolist(), draft.length.tolist()
    ([1, 1], [1, 1])
    """
    rule_number = rule_id("draft_step", rule)
    sampling = sampling or SamplingParams()
    refuse(
        "draft_step", vocab=vocab, token_mask=token_mask, accept_estimate=accept_estimate,
        rows=rows, min_p=sampling.min_p,
    )  # fmt: skip
    if rule == "token" and proposal.logits is None:
        raise ValueError(
            "draft_step: proposal must keep logits for rule 'token' "
            "(Proposal.empty(batch, slots, vocab, dtype)), got one without"
        )
    if out is None:
        out = torch.empty_like(proposal.round)
    call(
        "draft_step", backend, logits=logits, temperature=sampling.temperature,
        top_k=sampling.top_k, top_p=sampling.top_p, seed=rng.seed, round=proposal.round,
        max_length=proposal.max_length, **rule_arguments("draft_step", rules, state),
        rule=rule_number, tokens=proposal.tokens, length=proposal.length, active=proposal.active,
        num_active=proposal.num_active, kept_logits=proposal.logits, stats=proposal.stats,
        stop_reason=proposal.stop_reason, next_token=out,
    )  # fmt: skip
    return out
