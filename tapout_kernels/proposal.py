"""A draft in the making: tokens, lengths and the statistics verification needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._check import check, require_tensor
from .backends import call
from .draft_vocab import DraftVocab, vocab_tables
from .reference.stop import NOT_LIVE
from .stop_rules import StopRules, StopState, rule_arguments
from .types import NUM_STATS, RngState, SamplingParams, require_rows


@dataclass
class Proposal:
    """K draft slots for each of B requests; every length lives on the device.

    Parameters
    ----------
    tokens : Tensor
        [B, K] int64 target ids, -1 where nothing was drafted.
    length, max_length : Tensor
        [B] int32: tokens drafted so far, and the limit of this round.
    active : Tensor
        [B] bool, still drafting.
    live : Tensor
        [B] bool; False is a padding row: no state of it changes.
    round : Tensor
        [B] int64, the round it was drafted in, part of every random address.
    num_active : Tensor
        [1] int32, how many rows are active: the flag of a device-side loop.
    logits : Tensor or None
        [B, K, D] raw draft logits in their own dtype, -inf where masked, or None for drafts that
        are one-hot or of rule ``gumbel``. D is the draft vocabulary.
    stats : Tensor
        [B, K, 8] float32: lse, entropy, top1_prob, top2_prob, token_logprob, cutoff, temperature,
        accept_estimate. Entropy and top probabilities are of the softmax *before* top-k, top-p
        and min-p, at the row's temperature (1 where it counts as 0); lse and token_logprob are of
        the processed distribution; ``cutoff`` is a logit of the row, at or above it is kept; the
        estimate is the one passed to ``draft_step``, 0 without.
    stop_reason : Tensor
        [B] int32: NONE 0, RULE 1, MAX_LENGTH 2, PRE_DRAFT 3, NOT_LIVE 4, BAD_LOGITS 5.
    logits_row : Tensor or None
        [B] int32. An engine that keeps draft logits per request slot sets ``logits`` to its
        [R, K, D] and this to the slot of each batch row, each a different one. None: row b.
    """

    tokens: Tensor
    length: Tensor
    max_length: Tensor
    active: Tensor
    live: Tensor
    round: Tensor
    num_active: Tensor
    logits: Tensor | None
    stats: Tensor
    stop_reason: Tensor
    logits_row: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    @property
    def slots(self) -> int:
        return self.tokens.shape[1]

    @classmethod
    def empty(
        cls,
        batch: int,
        slots: int,
        vocab: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Proposal:
        """Buffers for ``slots`` drafts a request; nothing is live until :meth:`reset`.

        Parameters
        ----------
        batch, slots : int
        vocab : int, optional
            Draft vocabulary; given, the proposal keeps the draft's logits, which ``verify`` with
            rules ``token`` and ``block`` needs unless every draft is one-hot.
        dtype : torch.dtype, optional
            Of the kept logits (default float32); must equal the draft model's.
        device : torch.device or str, optional

        Raises
        ------
        ValueError
            If ``batch`` or ``slots`` is not positive.

        Examples
        --------
        >>> Proposal.empty(2, 4, vocab=100).logits.shape
        torch.Size([2, 4, 100])
        """
        if batch < 1 or slots < 1:
            raise ValueError(f"Proposal.empty: batch and slots must be >= 1, got {batch}, {slots}")

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        kept = None if vocab is None else zeros(batch, slots, vocab, dtype=dtype or torch.float32)
        return cls(
            tokens=zeros(batch, slots, dtype=torch.int64).fill_(-1),
            length=zeros(batch),
            max_length=zeros(batch),
            active=zeros(batch, dtype=torch.bool),
            live=zeros(batch, dtype=torch.bool),
            round=zeros(batch, dtype=torch.int64),
            num_active=zeros(1),
            logits=kept,
            stats=zeros(batch, slots, NUM_STATS, dtype=torch.float32),
            stop_reason=zeros(batch),
        )

    def reset(
        self,
        rng: RngState,
        rules: StopRules | None = None,
        state: StopState | None = None,
        max_length: Tensor | None = None,
        live: Tensor | None = None,
        prediction: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        backend: str | None = None,
    ) -> None:
        """Begin a round, in one launch: clear, take a round number, apply the pre-draft test.

        Parameters
        ----------
        rng : RngState
            ``rng.round`` of live rows advances by one.
        rules, state : StopRules, StopState, optional
            The arm of a row may refuse to draft at all: ``fixed_length`` with n = 0,
            ``hysteresis`` while off, ``predicted_length``.
        max_length : Tensor, optional
            [B] int32, clipped to [0, K]. None: K.
        live : Tensor, optional
            [B] bool. None: every row.
        prediction : Tensor, optional
            [B] float32, how many drafts to make: what the arms of ``predicted_length`` remember
            (``state.memory``) and stop at: rounded, halves up, in [0, K]; 0 drafts nothing, NaN
            is no prediction. It may depend on all that is known before the round.
        rows : Tensor, optional
            [B] int32, the row of ``rng`` and ``state`` of each batch row; one outside them is not
            live. None: row b.
        backend : str, optional
            See :func:`tapout_kernels.available_backends`.

        Raises
        ------
        TypeError, ValueError
            For a tensor of the wrong dtype, shape, device or layout, a ``prediction`` without
            ``rules``, or none where an arm is ``predicted_length``; nothing is written.
        """
        _require_prediction(rules, prediction)
        call(
            "proposal_reset", backend,
            max_length=max_length, prediction=prediction, live=live, rows=rows,
            **rule_arguments("proposal_reset", rules, state),
            rng_round=rng.round, tokens=self.tokens, length=self.length,
            out_max_length=self.max_length, active=self.active, out_live=self.live,
            round=self.round, num_active=self.num_active, stats=self.stats,
            stop_reason=self.stop_reason,
        )  # fmt: skip

    @classmethod
    def from_tokens(
        cls,
        tokens: Tensor,
        rng: RngState,
        length: Tensor | None = None,
        logits: Tensor | None = None,
        sampling: SamplingParams | None = None,
        vocab: DraftVocab | None = None,
        token_mask: Tensor | None = None,
        live: Tensor | None = None,
        max_length: Tensor | None = None,
        prediction: Tensor | None = None,
        *,
        rules: StopRules | None = None,
        state: StopState | None = None,
        rows: Tensor | None = None,
        out: Proposal | None = None,
        backend: str | None = None,
    ) -> Proposal:
        """Take over drafts made elsewhere (prompt lookup, another engine) and begin a round.

        Parameters
        ----------
        tokens : Tensor
            [B, N] int64 target ids, ``N <= K``; with logits N = K.
        rng : RngState
            Takes a round, as :meth:`reset` does.
        length : Tensor, optional
            [B] int32. None: up to the first -1.
        logits : Tensor, optional
            [B, K, D] raw logits the tokens were *sampled from under* ``sampling``. Without them
            the draft is one-hot: the drafter would have proposed exactly these tokens.
        sampling : SamplingParams, optional
            Required with ``logits``: the very parameters the drafter sampled with.
        live, max_length, prediction : Tensor, optional
            As in :meth:`reset`.
        rules, state : StopRules, StopState, optional
            Cut each draft where its arm would have stopped, the stopping token kept.
        out : Proposal, optional
            Buffers to reuse; else K = N. Its ``logits`` become the tensor given, which must stay
            unchanged until ``verify``; one that keeps logits of its own is for ``draft_step``.
        vocab : DraftVocab, optional
            The draft vocabulary of ``logits``, without which it is not looked at; ``tokens`` are
            target ids always.
        token_mask : Tensor, optional
            [B, K, ceil(V/32)] int32, the mask the drafter sampled under, bit 1 = allowed target
            id. Masked entries of ``logits`` are set to -inf in place in every slot taken over, so
            their rows must not overlap. Only with ``logits``.
        rows : Tensor, optional
            As in :meth:`reset`; for ``sampling`` too.

        Returns
        -------
        Proposal
            ``out``, or a new one.

        Raises
        ------
        TypeError, ValueError
            For a tensor of the wrong dtype, shape, device or layout; nothing is written.

        Examples
        --------
        >>> draft = torch.tensor([[5, 7, -1]])
        >>> Proposal.from_tokens(draft, RngState.of(0)).length.tolist()
        [2]
        """
        require_tensor("from_tokens", "tokens", tokens)
        if tokens.dim() != 2:
            raise ValueError(f"from_tokens: tokens must be [B, N], got {list(tokens.shape)}")
        proposal = out or cls.empty(*tokens.shape, device=tokens.device)
        if logits is not None and sampling is None:
            raise ValueError("from_tokens: sampling must be given with logits, got None")
        if logits is None and token_mask is not None:
            raise ValueError("from_tokens: token_mask must be None without logits, got a Tensor")
        if token_mask is not None and _overlaps(logits):
            raise ValueError(
                "from_tokens: logits must have rows of their own where token_mask is given, "
                f"got strides {list(logits.stride())}"
            )
        d2t, t2d = vocab_tables("from_tokens", vocab)
        arguments = dict(
            source=tokens, source_length=length, logits=logits,
            **(sampling or SamplingParams()).arguments(), token_mask=token_mask, d2t=d2t,
            t2d=t2d, rows=rows, **rule_arguments("proposal_load", rules, state),
            max_length=proposal.max_length, tokens=proposal.tokens, length=proposal.length,
            active=proposal.active, num_active=proposal.num_active, stats=proposal.stats,
            stop_reason=proposal.stop_reason,
        )  # fmt: skip
        check("proposal_load", arguments)  # before the round is taken
        if logits is None and proposal.logits is not None:
            raise ValueError("from_tokens: out must keep no logits for a draft without, got some")
        columns, slots = tokens.shape[1], proposal.slots
        if columns > slots or (logits is not None and columns < slots):
            bound = "at most" if logits is None else "with logits exactly"
            raise ValueError(
                f"from_tokens: tokens must have {bound} {slots} columns, got {columns}"
            )
        proposal.reset(rng, rules, state, max_length, live, prediction, rows=rows, backend=backend)
        proposal.logits, proposal.logits_row = logits, None
        call("proposal_load", backend, **arguments)
        return proposal

    def reset_rows(self, mask: Tensor) -> None:
        """Forget the drafts of rows that change hands: empty and not live until :meth:`reset`.

        In place, without a sync.

        Parameters
        ----------
        mask : Tensor
            [B] bool.

        Raises
        ------
        TypeError, ValueError
            For a mask of the wrong dtype or shape.

        Examples
        --------
        >>> draft = Proposal.from_tokens(torch.tensor([[5], [6]]), RngState.of([1, 2]))
        >>> draft.reset_rows(torch.tensor([True, False]))
        >>> draft.length.tolist(), draft.live.tolist()
        ([0, 1], [False, True])
        """
        require_rows("Proposal.reset_rows", self.length, torch.bool, mask=mask)
        for value in (self.length, self.max_length, self.active, self.live, self.round):
            value.masked_fill_(mask, 0)
        self.tokens.masked_fill_(mask[:, None], -1)
        self.stats.masked_fill_(mask[:, None, None], 0)
        self.stop_reason.masked_fill_(mask, NOT_LIVE)
        self.num_active.copy_(self.active.sum())

    def input_ids(self, last_token: Tensor, vocab: int | None = None) -> Tensor:
        """[B, K+1] int64 for the target's verify forward, free of -1.

        Parameters
        ----------
        last_token : Tensor
            [B] int64, the token before the draft; unused slots repeat it.
        vocab : int, optional
            Drafted ids from here up are replaced too, for drafters that are not trusted:
            ``verify`` reports them as BAD_DRAFT, an embedding would read out of bounds.

        Examples
        --------
        >>> draft = Proposal.from_tokens(torch.tensor([[5, -1]]), RngState.of(0))
        >>> draft.input_ids(torch.tensor([3])).tolist()
        [[3, 5, 3]]
        """
        if last_token.shape != (self.batch,) or last_token.dtype != torch.int64:
            raise ValueError(
                f"input_ids: last_token must be int64 [{self.batch}], "
                f"got {last_token.dtype} {list(last_token.shape)}"
            )
        last = last_token[:, None]
        unusable = self.tokens < 0
        if vocab is not None:
            unusable = unusable | (self.tokens >= vocab)
        return torch.cat([last, torch.where(unusable, last, self.tokens)], dim=1)


def _require_prediction(rules: StopRules | None, prediction: Tensor | None) -> None:
    if rules is None and prediction is not None:
        raise ValueError("proposal_reset: rules must be given with prediction, got None")
    if rules is not None and prediction is None and "predicted_length" in rules.names:
        raise ValueError(
            "proposal_reset: prediction must be given for an arm of predicted_length, got None"
        )


def _overlaps(logits: Tensor) -> bool:
    """Whether writing one row of [B, K, D] may write another."""
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        return False  # said by the check of every argument
    rows = sorted(zip(logits.stride()[:2], logits.shape[:2], strict=True))
    needed = logits.shape[2]
    for stride, size in rows:
        if size > 1 and stride < needed:
            return True
        needed = max(needed, stride * (size - 1) + needed)
    return False
