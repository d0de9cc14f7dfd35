"""``verify``: speculative verification of a draft against target logits."""

from __future__ import annotations

from torch import Tensor

from ..backends import call, without_gpu
from ..draft_vocab import DraftVocab, vocab_tables
from ..proposal import Proposal
from ..reference.accept import LOSSY_RULES
from ..reference.lossy import require_memory
from ..types import RngState, SamplingParams, Verdict
from ._rules import verify_rule_id


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
    lossy_memory: Tensor | None = None,  # [R, 4]
    rows: Tensor | None = None,  # [B]
    out: Verdict | None = None,
    backend: str | None = None,
) -> Verdict:
    r"""Accept a prefix of every draft and emit one more token, exactly as the target would.

    Only rules named ``lossy_*`` do otherwise, and those have to be allowed.

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
        Or a lossy one, see Notes: "lossy_typical", "lossy_ears", "lossy_consultant", "lossy_fly",
        "lossy_adasd".
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
        Must be True for a rule named ``lossy_*``: what it emits has not the target's law.
    lossy_memory : Tensor, optional
        [R, 4] float64, for rule ``lossy_adasd`` alone, which needs it: the sum and the count of the
        distances of accepted drafts, then of rejected ones. Zeros where a request begins; live rows
        advance it.
    rows : Tensor, optional
        [B] int32, the row of ``sampling`` and ``rng`` that belongs to each batch row (engines
        keep state per request slot); one outside them counts as not live. None: row b.
    out : Verdict, optional
        Buffers to write, see :meth:`Verdict.empty`.
    backend : {"reference", "cpu", "triton", "cuda"}, optional
        Triton and CUDA have no kernel of lossy rules; on a GPU the reference is their default.

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
        For a tensor of the wrong dtype, shape, device or layout, for a lossy rule that is not
        allowed, or ``lossy_memory`` with the wrong rule; nothing is written.

    Notes
    -----
    Determinism: a row's result depends on that row alone, bit for bit: not on the batch, padding
    rows, thread count or instruction set.

    Lossy rules, with published constants, H the entropy (nats) of the processed p_target:

    - ``lossy_typical`` (Medusa 2401.10774) accepts x iff
      :math:`p_{target}(x) > \min(0.3, 0.09 e^{-H})`; a rejection emits a sample of p_target.
    - ``lossy_ears`` (2512.13194) accepts iff
      :math:`u \le p_{target}(x) / p_{draft}(x) + 0.3 (1 - \max p_{target})`; a rejection emits from
      the residual, as ``token`` does.
    - ``lossy_consultant`` (2506.02391) goes on while :math:`r \le 2`, where r begins at 0 in every
      draft and :math:`r \leftarrow 0.2 r - 0.8 \ln p_{target}(x)`; a rejection emits a sample of
      p_target.
    - ``lossy_fly`` (2511.22972) is ``greedy``, but a draft that is not the argmax survives iff
      :math:`H \ge 0.3 \ln V` and the next 6 drafts are all the argmax of their rows.
    - ``lossy_adasd`` (after AdaSD 2512.11280; a reconstruction) is ``greedy``, but a draft that is
      not the argmax survives iff the Jensen-Shannon distance :math:`\sqrt{JSD}` (nats, over the
      target's ids) of p_target and p_draft is at most the midpoint of its mean over accepted and
      over rejected drafts so far, ``lossy_memory`` before this call. Until both exist none does.

    The temperature shapes the entropy and the distance of ``lossy_fly`` and ``lossy_adasd``; what
    they emit themselves is the argmax at any. No lossy rule accepts a token of p_target = 0, so
    masks and filters hold, and at temperature 0 all of them emit what ``greedy`` does. Their drafts
    are drawn as for ``token``. ``accept_prob`` is the probability that a draft is accepted
    (``lossy_ears``), or 1 or 0.

    Examples
    --------
    >>> rng = RngState.of(seeds=0)
    >>> draft = Proposal.from_tokens(torch.tensor([[1, 2]]), rng)
    >>> logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 2]]), 3) * 100.0
    >>> verify(logits, draft, SamplingParams(), rng, rule="greedy").tokens.tolist()
    [[1, 0, -1]]
    """
    rule_number = verify_rule_id(rule, allow_lossy)
    require_memory(rule_number, lossy_memory)
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
    if rule in LOSSY_RULES:
        backend = without_gpu("verify", f"rule {rule}", backend, proposal.tokens.device)
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
        lossy_memory=lossy_memory,
    )  # fmt: skip
    return out


def _require_buffers(out: Verdict, **wanted: bool) -> None:
    for name, want in wanted.items():
        if want and getattr(out, name) is None:
            raise ValueError(f"verify: out must have {name} (Verdict.empty), got None")
