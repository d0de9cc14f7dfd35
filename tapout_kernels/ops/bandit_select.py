"""``bandit_select``: every request's arm for the coming round."""

from __future__ import annotations

import torch
from torch import Tensor

from .._check import require_tensor
from ..backends import call
from ..bandit_state import BanditState
from ..reference.bandit import POLICIES, REWARDS
from ._bandit import arm_prob_of


def bandit_select(
    bandit: BanditState,
    group: Tensor | None = None,  # [B]
    live: Tensor | None = None,  # [B]
    batch: int | None = None,
    out: Tensor | None = None,  # [B], or [B, K] at token level; [R] or [R, K] with rows
    *,
    rows: Tensor | None = None,  # [B]
    backend: str | None = None,
) -> Tensor:
    r"""Choose an arm for each live row; at level ``token`` one for every slot.

    With :math:`\mu_a` the mean reward of arm a, :math:`n_a` its pulls and t all pulls of the
    group (of the slot) plus this call's rows of the group:

    ``ucb1``: each arm once (lowest first), then
    :math:`\arg\max_a \mu_a + c \sqrt{2 \ln t / n_a}`.
    ``metasd``: the same, with the reward ``overlap``.
    ``ucb_tuned``: :math:`\mu_a + \sqrt{\ln t / n_a \, \min(1/4, var_a + \sqrt{2 \ln t / n_a})}`.
    ``ucbspec``: :math:`\mu_a + \tfrac12 \sqrt{(1 + n_a) / n_a^2 \, (1 + 2 \ln(A t^2
    \sqrt{1 + n_a} / \delta))}`, the score of its reward n_acc + 1 over the range K.
    In these, rows of one group choose in row order, and a pull made in this call counts in n, not
    in the mean: one batch explores instead of repeating itself.
    ``thompson_gaussian``: the largest draw of
    :math:`N((1/2 + \sum r) / (n_a + 1), \sigma^2 / (n_a + 1))`.
    ``thompson_beta``: of :math:`Beta(1 + \sum r, 1 + n_a - \sum r)`, Marsaglia and Tsang's method
    with eight tries.
    ``epsilon_greedy``: any arm with probability epsilon, else the largest mean.
    ``exp3``, ``exp3spec``: a draw with probability proportional to :math:`e^{-\eta L_a}`,
    :math:`\eta = \sqrt{\ln A / (t A)}`, t = 1 + pulls, L the estimated losses. All of them but
    ``exp3spec`` can mix in ``epsilon`` of uniform play. The probabilities are kept in
    ``bandit.arm_prob``.
    ``hedge``: the same with :math:`\eta = \sqrt{\ln A / t}`.
    ``normalhedge``: with probability proportional to :math:`[R_a]_+ e^{[R_a]_+^2 / 2c}`, c the root
    of mean :math:`e^{[R]_+^2 / 2c} = e`, R the estimated regrets; uniform where none is positive.
    ``fixed``: one arm for ever. Ties go to the lowest arm.

    Parameters
    ----------
    bandit : BanditState
        ``calls`` advances by one, ``arm_prob`` gets what rows drew from; nothing else changes.
    group : Tensor, optional
        [B] int32, the bandit's group of each row; a row outside [0, G) takes no part. None: 0.
    live : Tensor, optional
        [B] bool; other rows take no part.
    batch : int, optional
        Number of rows, where neither ``rows``, ``group``, ``live`` nor ``out`` tells (default 1).
    out : Tensor, optional
        [B] int32, at level ``token`` [B, K], written in place for rows that take part: pass
        ``state.arm``.
    rows : Tensor, optional
        [B] int32, the row of ``out`` that belongs to each batch row; ``out`` is then [R] or [R, K]
        and must be given. A batch row that names none of them takes no part; no two may name the
        same.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    Tensor
        ``out``, int32 arms; rows that take no part keep their entry (0 in a new tensor).

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Notes
    -----
    Random draws are addressed by (batch row, slot and arm, ``calls``) under ``bandit.seed``.
    Source: TapOut, arXiv 2511.02017; Auer et al. 2002 for ``ucb1`` and ``ucb_tuned``; BanditSpec,
    2505.15141, for ``ucbspec`` and ``exp3spec``; Not-a-Bandit, 2510.20064, for hedging, there over
    drafters; Chaudhuri et al. 2009 for ``normalhedge``.

    Examples
    --------
    >>> bandit = BanditState.create(arms=3, slots=4)
    >>> bandit_select(bandit, batch=4).tolist()
    [0, 1, 2, 0]
    """
    for name, value in (("rows", rows), ("group", group), ("live", live), ("out", out)):
        if value is not None:
            require_tensor("bandit_select", name, value)
    sizes = (list(x.shape[:1]) for x in (rows, group, live, out) if x is not None)
    if batch is not None and batch < 1:
        raise ValueError(f"bandit_select: batch must be at least 1, got {batch}")
    given = next(sizes, [batch or 1])
    if batch is not None and [batch] != given:
        raise ValueError(f"bandit_select: batch must be {given}, got [{batch}]")
    if out is None:
        if rows is not None:
            raise ValueError("bandit_select: out must be given with rows, got None")
        shape = (*given, *bandit.count.shape[2:])
        out = torch.zeros(shape, dtype=torch.int32, device=bandit.count.device)
    call(
        "bandit_select", backend, count=bandit.count, reward_sum=bandit.reward_sum,
        reward_sq=bandit.reward_sq, tokens=bandit.tokens, cost=bandit.cost, params=bandit.params,
        seed=bandit.seed, group=group, live=live, rows=rows, policy=POLICIES[bandit.policy],
        reward=REWARDS[bandit.reward], slots=bandit.slots, calls=bandit.calls, arm=out,
        arm_prob=arm_prob_of(bandit),
    )  # fmt: skip
    return out
