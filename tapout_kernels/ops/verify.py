"""``verify``: lossless speculative verification of a draft against target logits."""

from __future__ import annotations

from torch import Tensor

from ..backends import call, refuse
from ..draft_vocab import DraftVocab, vocab_tables
from ..proposal import Proposal
from ..types import RngState, SamplingParams, Verdict
from ._rules import rule_id


def verify(
    target_logits: Tensor,  # [B, K+1, V], or [n, V] with row_start
    proposal: Proposal,
    sampling: SamplingParams | None,
    rng: RngState,
    *,
    rule: str = "token",
    row_start: Tensor | None = None,  # [B+1]
    vocab: DraftVocab | None = None,
    token_mask: Tensor | None = None,  # [B, K+1, ceil(V/32)], or [n, ceil(V/32)]
    overlap: bool = False,
    logprobs: str | None = None,
    allow_lossy: bool = False,
    rows: Tensor | None = None,  # [B]
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
        are never looked at. With ``row_start`` ragged [n, V].
    proposal : Proposal
        Carries the tokens, their draft distribution and the round they were drafted in.
    sampling : SamplingParams or None
        Of the target; the draft's own travel with the proposal.
    rng : RngState
        ``position`` of live rows advances by ``num_emitted``.
    rule : {"token", "block", "gumbel", "greedy"}
        ``block`` (Sun et al. 2403.10444) decides on the whole draft and accepts at least as much
        as ``token`` on average; ``gumbel`` (2408.07978) accepts while the draft equals the
        argmax of z/T + G, its output depends on target, prefix and seed alone; ``greedy`` accepts
        while the draft equals the argmax: the law at temperature 0 whatever ``sampling`` says.
    row_start : Tensor, optional
        [B+1] int32: request b owns rows ``row_start[b]`` to ``row_start[b+1]`` of
        ``target_logits``, at least ``length[b] + 1`` of them (a missing row counts as EMPTY), the
        rest is ignored.
    vocab : DraftVocab, optional
        The vocabulary of the proposal's logits: the one ``draft_step`` was given.
    token_mask : Tensor, optional
        [B, K+1, ceil(V/32)] int32, or [n, ceil(V/32)] with ``row_start``: bit 1 = allowed (the
        xgrammar layout), for every row, the bonus row included.
    overlap : bool
        Also compute the sum of min(p_target, p_draft) at every drafted slot, the chance that
        rule ``token`` accepts there (reads every row of the draft). Rule ``gumbel`` needs a
        proposal that keeps logits for it.
    logprobs : {None, "processed", "raw"}
        Also give each emitted token's log-probability: of the processed distribution, or of the
        untouched logits (no mask, temperature or filter).
    allow_lossy : bool
        There are no lossy rules in this version: must be False.
    rows : Tensor, optional
        [B] int32, the row of ``sampling`` and ``rng`` that belongs to each batch row (engines
        keep state per request slot); one outside them counts as not live. None: row b.
    out : Verdict, optional
        Buffers to write, see :meth:`Verdict.empty`.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    Verdict
        A row whose target logits are NaN, +inf or all -inf emits what was accepted before it and
        reports NAN or EMPTY; a drafted id outside [0, V) or of draft probability 0 ends the draft
        there and reports BAD_DRAFT (one that a draft vocabulary really drew is rejected like any
        token of target probability 0). No id outside [0, V) is ever emitted.

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
    refuse("verify", allow_lossy=allow_lossy)
    if logprobs not in (None, "processed", "raw"):
        raise ValueError(f"verify: logprobs must be None, processed or raw, got {logprobs!r}")
    if overlap and rule == "gumbel" and proposal.logits is None:
        raise ValueError(
            "verify: overlap must be False for rule 'gumbel' without the draft's logits, got True"
        )
    if out is None:
        device = proposal.tokens.device
        out = Verdict.empty(
            proposal.batch, proposal.slots, overlap, logprobs is not None, device=device
        )
    _require_buffers(out, overlap=overlap, logprobs=logprobs is not None)
    keeps = proposal.logits is not None
    call(
        "verify", backend, target_logits=target_logits, row_start=row_start,
        **(sampling or SamplingParams()).arguments(), token_mask=token_mask, seed=rng.seed,
        rows=rows, draft_tokens=proposal.tokens, length=proposal.length, live=proposal.live,
        round=proposal.round, draft_logits=proposal.logits,
        logits_row=proposal.logits_row if keeps else None,
        t2d=vocab_tables("verify", vocab)[1] if keeps else None, stats=proposal.stats,
        rule=rule_number, raw_logprobs=logprobs == "raw", position=rng.position,
        tokens=out.tokens, num_accepted=out.num_accepted, num_emitted=out.num_emitted,
        last_token=out.last_token, status=out.status, accept_prob=out.accept_prob,
        overlap=out.overlap if overlap else None, logprobs=out.logprobs if logprobs else None,
    )  # fmt: skip
    return out


def _require_buffers(out: Verdict, **wanted: bool) -> None:
    for name, want in wanted.items():
        if want and getattr(out, name) is None:
            raise ValueError(f"verify: out must have {name} (Verdict.empty), got None")
