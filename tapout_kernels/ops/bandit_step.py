"""``bandit_step``: what the round taught about its arm, and every request's arm for the next."""

from __future__ import annotations

import torch
from torch import Tensor

from .._check import require_tensor
from ..backends import call
from ..bandit_state import BanditState
from ..proposal import Proposal
from ..stop_rules import StopRules, StopState
from ..types import Verdict
from ._bandit import round_arguments


def bandit_step(
    bandit: BanditState,
    arm: Tensor,  # [B], or [B, K] at token level; [R] or [R, K] with rows
    proposal: Proposal,
    verdict: Verdict,
    group: Tensor | None = None,  # [B]
    live: Tensor | None = None,  # [B]
    out: Tensor | None = None,  # like arm
    *,
    rules: StopRules | None = None,
    state: StopState | None = None,
    rows: Tensor | None = None,  # [B]
    backend: str | None = None,
) -> Tensor:
    """Learn from the finished round, then choose an arm for each live row of the next one.

    The same, bit for bit, as :func:`bandit_update` followed by :func:`bandit_select`: rewards and
    policies are described there. On a GPU it is one launch.

    Parameters
    ----------
    bandit : BanditState
        Its tables learn in row order; ``calls`` advances by one.
    arm : Tensor
        [B] int32, at level ``token`` [B, K]: the arms that ran.
    proposal, verdict : Proposal, Verdict
        Of the finished round, as :func:`verify` left them: rows that are not live in the proposal,
        or have a status other than OK, teach nothing.
    group : Tensor, optional
        [B] int32, the bandit's group of each row, in both rounds; a row outside [0, G) takes no
        part. None: group 0.
    live : Tensor, optional
        [B] bool, the rows of the coming round; the others are not given an arm. None: all of them.
    out : Tensor, optional
        int32 of the shape of ``arm``, written in place for rows that take part. It may be ``arm``
        itself: pass ``state.arm`` as both.
    rules, state : StopRules, StopState, optional
        Given, ``state.memory`` of the arm that ran is updated too.
    rows : Tensor, optional
        [B] int32, the row of ``arm``, ``out`` and ``state`` that belongs to each batch row; ``arm``
        is then [R] or [R, K]. A batch row that names none of them takes no part; no two may name
        the same.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    Tensor
        ``out``, int32 arms; rows that take no part keep their entry (0 in a new tensor).

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout, or proposals of another K than
        ``bandit.slots`` where that matters (level ``token``, reward ``throughput``); nothing is
        written.

    Notes
    -----
    Random draws are addressed by (batch row, slot and arm, ``calls``) under ``bandit.seed``.
    Source: TapOut, arXiv 2511.02017.

    Examples
    --------
    >>> rng, bandit = RngState.of(0), BanditState.create(arms=2, slots=2)
    >>> arm = bandit_select(bandit, batch=1)
    >>> draft = Proposal.from_tokens(torch.tensor([[1, 2]]), rng)
    >>> logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 0]]), 3) * 100.0
    >>> verdict = verify(logits, draft, SamplingParams(), rng, rule="greedy")
    >>> bandit_step(bandit, arm, draft, verdict, out=arm).tolist()
    [1]
    >>> bandit.reward_sum.tolist(), bandit.calls.tolist()
    ([[1.0, 0.0]], [2])
    """
    arguments = round_arguments(
        "bandit_step", bandit, arm, proposal, verdict, group, rules, state, rows
    )
    if out is None:
        require_tensor("bandit_step", "arm", arm)
        out = torch.zeros_like(arm)
    call(
        "bandit_step", backend, **arguments, seed=bandit.seed, next_live=live,
        calls=bandit.calls, next_arm=out,
    )  # fmt: skip
    return out
