"""``verify``: lossless speculative verification of a draft against target logits."""

from __future__ import annotations

from torch import Tensor

from ..backends import call, refuse
from ..proposal import Proposal
from ..types import RngState, SamplingParams, Verdict
from ._rules import rule_id


def verify(
    target_logits: Tensor,  # [B, K+1, V]
    proposal: Proposal,
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    rule: str = "token",
    row_start: Tensor | None = None,
    vocab: object | None = None,
    token_mask: Tensor | None = None,
    overlap: bool = False,
    logprobs: str | None = None,
    allow_lossy: bool = False,
    rows: Tensor | None = None,
    out: Verdict | None = None,
    backend: str | None = None,
) -> Verdict:
    r"""Accept a prefix of every draft and emit one more token, exactly as the target would.

    Rule ``token`` (Leviathan et al. 2211.17192, Chen et al. 2302.01318): slot j is accepted iff
    :math:`u_j \, p_{draft}(x_j) < p_{target}(x_j)`; the first rejection emits from
    :math:`norm[p_{target} - p_{draft}]_+`; if all are accepted, row ``length`` emits a bonus
    token. Both distributions are the *processed* ones. The emitted sequence has exactly the law
    of sampling the target alone, for every draft, stop rule and arm.

    Parameters
    ----------
    target_logits : Tensor
        [B, K+1, V] float32, bfloat16 or float16, any strides over the first two dimensions, last
        dimension contiguous. Row j scores the token after draft j-1; rows beyond ``length[b]``
        are never looked at.
    proposal : Proposal
        Carries the tokens, their draft distribution and the round they were drafted in.
    sampling : SamplingParams or None
        Of the target; the draft's own travel with the proposal.
    rng : RngState
        ``position`` of live rows advances by ``num_emitted``.
    rule : {"token", "greedy"}
        ``greedy``: accept while the draft equals the argmax; the law at temperature 0 whatever
        ``sampling`` says.
    out : Verdict, optional
        Buffers to write, see :meth:`Verdict.empty`.
    backend : {"reference", "cpu"}, optional
    row_start, vocab, token_mask, overlap, logprobs, allow_lossy, rows : optional
        Not supported in this version.

    Returns
    -------
    Verdict
        A row whose target logits are NaN, +inf or all -inf emits what was accepted before it and
        reports NAN or EMPTY; a drafted id outside [0, V) or of draft probability 0 ends the draft
        there and reports BAD_DRAFT. No id outside [0, V) is ever emitted.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Notes
    -----
    Determinism: a row's result depends on that row alone, bit for bit: not on the batch, padding
    rows, thread count or instruction set.

    Examples
    --------
    >>> rng = RngState.of(seeds=0)
    >>> draft = Proposal.from_tokens(torch.tensor([[1, 2]]), rng)
    >>> logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 2]]), 3) * 100.0
    >>> verify(logits, draft, SamplingParams(), rng, rule="greedy").tokens.tolist()
    [[1, 0, -1]]
    """
    rule_number = rule_id("verify", rule)
    sampling = sampling or SamplingParams()
    refuse(
        "verify", row_start=row_start, vocab=vocab, token_mask=token_mask, overlap=overlap,
        logprobs=logprobs, allow_lossy=allow_lossy, rows=rows, min_p=sampling.min_p,
        logits_row=proposal.logits_row,
    )  # fmt: skip
    if out is None:
        out = Verdict.empty(proposal.batch, proposal.slots, device=proposal.tokens.device)
    call(
        "verify", backend, target_logits=target_logits,
        temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p,
        seed=rng.seed, draft_tokens=proposal.tokens, length=proposal.length, live=proposal.live,
        round=proposal.round, draft_logits=proposal.logits, stats=proposal.stats,
        rule=rule_number, position=rng.position, tokens=out.tokens,
        num_accepted=out.num_accepted, num_emitted=out.num_emitted, last_token=out.last_token,
        status=out.status, accept_prob=out.accept_prob,
    )  # fmt: skip
    return out
