"""``draft_step``: statistics, sampling, the stop rule and all bookkeeping of one draft slot."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import call
from ..draft_vocab import DraftVocab, vocab_tables
from ..proposal import Proposal
from ..stop_rules import StopRules, StopState, rule_arguments
from ..types import RngState, SamplingParams
from ._rules import rule_id


def draft_step(
    logits: Tensor,  # [B, D]
    proposal: Proposal,
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    rules: StopRules | None = None,
    state: StopState | None = None,
    rule: str = "token",
    vocab: DraftVocab | None = None,
    token_mask: Tensor | None = None,  # [B, ceil(V/32)]
    accept_estimate: Tensor | None = None,  # [B]
    rows: Tensor | None = None,  # [B]
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
        [B, D] raw draft logits, float32, bfloat16 or float16, any row stride, last dimension
        contiguous; the dtype and D of ``proposal.logits`` where it keeps them. D is the target's
        vocabulary, or that of ``vocab``.
    proposal : Proposal
        Written in place where active. Rules ``token`` and ``block`` need one that keeps logits
        (``Proposal.empty(..., vocab=D)``), else the draft's distribution would be lost.
    sampling : SamplingParams or None
        What the draft is sampled with; it need not be the target's.
    rng : RngState
        Read only: the noise address is (seed, slot, ``proposal.round``), for ``gumbel`` (seed,
        position + slot).
    rules, state : StopRules, StopState, optional
        Without them drafting goes on to ``max_length``.
    rule : {"token", "block", "gumbel", "greedy"}
        The rule ``verify`` will use. ``gumbel`` drafts the argmax of z/T + G with the noise the
        target will use at that position; ``greedy`` drafts the argmax, whatever ``sampling``
        says; ``token`` and ``block`` draft alike, and for a lossy rule it is ``token``.
    vocab : DraftVocab, optional
        The draft model's own vocabulary; the proposal stores target ids.
    token_mask : Tensor, optional
        [B, ceil(V/32)] int32 over *target* ids, bit 1 = allowed (the xgrammar layout). Masked
        entries count, and are kept, as -inf.
    accept_estimate : Tensor, optional
        [B] float32, a learned estimate of the chance that this token is accepted: what the stop
        rule ``survival`` multiplies instead of the top-1 probability.
    rows : Tensor, optional
        [B] int32, the row of ``sampling``, ``rng`` and ``state`` that belongs to each batch row
        (engines keep state per request slot); one outside them is left as it is. None: row b.
    out : Tensor, optional
        [B] int64, written in place.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

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
    if rule in ("token", "block") and proposal.logits is None:
        raise ValueError(
            f"draft_step: proposal must keep logits for rule {rule!r} "
            "(Proposal.empty(batch, slots, vocab, dtype)), got one without"
        )
    if out is None:
        out = torch.empty_like(proposal.round)
    call(
        "draft_step", backend, logits=logits, **(sampling or SamplingParams()).arguments(),
        token_mask=token_mask, d2t=vocab_tables("draft_step", vocab)[0],
        accept_estimate=accept_estimate, seed=rng.seed, position=rng.position,
        round=proposal.round, max_length=proposal.max_length, rows=rows,
        **rule_arguments("draft_step", rules, state), rule=rule_number,
        logits_row=None if proposal.logits is None else proposal.logits_row,
        tokens=proposal.tokens, length=proposal.length, active=proposal.active,
        num_active=proposal.num_active, kept_logits=proposal.logits, stats=proposal.stats,
        stop_reason=proposal.stop_reason, next_token=out,
    )  # fmt: skip
    return out
