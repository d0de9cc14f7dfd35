"""``bandit_select``: every request's arm for the coming round."""

from __future__ import annotations

import torch
from torch import Tensor

from .._check import require_tensor
from ..backends import call
from ..bandit_state import BanditState
from ..reference.bandit import POLICIES


def bandit_select(
    bandit: BanditState,
    group: Tensor | None = None,  # [B]
    live: Tensor | None = None,  # [B]
    batch: int | None = None,
    out: Tensor | None = None,  # [B]
    *,
    backend: str | None = None,
) -> Tensor:
    r"""Choose an arm for each live row.

    ``ucb1``: each arm once (lowest first), then
    :math:`\arg\max_a \mu_a + c \sqrt{2 \ln t / n_a}` (lowest arm on ties). Rows of one group
    choose in row order; a pull made in this call counts in n, not in the mean, so one batch
    explores instead of repeating itself. t counts all pulls plus this call's rows.

    Parameters
    ----------
    bandit : BanditState
        ``calls`` advances by one; nothing else changes.
    group : Tensor, optional
        [B] int32, the bandit's group of each row; a row outside [0, G) takes no part. None: 0.
    live : Tensor, optional
        [B] bool; other rows take no part.
    batch : int, optional
        Number of rows, where neither ``group``, ``live`` nor ``out`` tells (default 1).
    out : Tensor, optional
        [B] int32, written in place for rows that take part: pass ``state.arm``.
    backend : {"reference", "cpu"}, optional

    Returns
    -------
    Tensor
        [B] int32 arms; rows that take no part keep their entry (0 in a new tensor).

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Examples
    --------
    >>> bandit = BanditState.create(arms=3, slots=4)
    >>> bandit_select(bandit, batch=4).tolist()
    [0, 1, 2, 0]
    """
    for name, value in (("group", group), ("live", live)):
        if value is not None:
            require_tensor("bandit_select", name, value)
    if out is None:
        given = next((x.shape[0] for x in (group, live) if x is not None), batch or 1)
        out = torch.zeros(given, dtype=torch.int32, device=bandit.count.device)
    if batch is not None and batch != out.shape[0]:
        raise ValueError(f"bandit_select: batch must be {out.shape[0]}, got {batch}")
    call(
        "bandit_select", backend, count=bandit.count,
        reward_sum=bandit.reward_sum, params=bandit.params, group=group, live=live,
        policy=POLICIES[bandit.policy], calls=bandit.calls, arm=out,
    )  # fmt: skip
    return out
