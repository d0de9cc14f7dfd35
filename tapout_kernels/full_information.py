"""Hedges over drafters: every drafter is judged by every verified token, a few tokens late.

Liu et al., "Not-a-Bandit: Provably No-Regret Drafter Selection in Speculative Decoding for LLMs",
arXiv 2510.20064.  Plain tensor operations in a fixed order, which can be captured as a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._check import require_tensor
from .bandit_state import BanditState
from .policies import HEDGES
from .reference.bandit import DISCOUNT, POLICY_PARAM, groups_of, in_order_sum
from .reference.rows import StateRows, write_rows
from .types import require_rows

OP = "observe_drafters"


@dataclass
class DrafterRing:
    """The chances of the last K verified tokens, of every drafter: what feedback waits for.

    Parameters
    ----------
    gamma : Tensor
        [R, A, K] float64, the newest last: how likely each token was to be accepted from a drafter.
    seen : Tensor
        [R] int32: how many of them there are, at most K; they are the last ones.
    """

    gamma: Tensor
    seen: Tensor

    @classmethod
    def empty(
        cls, rows: int, drafters: int, slots: int, device: torch.device | str | None = None
    ) -> DrafterRing:
        """A ring that has seen nothing.

        Parameters
        ----------
        rows : int
            R, requests, or slots of requests.
        drafters : int
            A, one for each arm of the bandit.
        slots : int
            K, the longest draft: so many tokens decide how long a draft would have been accepted.
        device : torch.device or str, optional

        Raises
        ------
        ValueError
            If one of the sizes is not positive.

        Examples
        --------
        >>> DrafterRing.empty(rows=2, drafters=3, slots=4).gamma.shape
        torch.Size([2, 3, 4])
        """
        if min(rows, drafters, slots) < 1:
            raise ValueError(
                f"DrafterRing: rows, drafters, slots must be >= 1, got {rows}, {drafters}, {slots}"
            )
        gamma = torch.zeros(rows, drafters, slots, dtype=torch.float64, device=device)
        return cls(gamma, torch.zeros(rows, dtype=torch.int32, device=device))

    def reset_rows(self, mask: Tensor) -> None:
        """Admit new requests: where ``mask`` [B] bool, nothing has been seen.

        What a request leaves behind is dropped: its last K positions are never judged, those of no
        drafter. In place, without a sync.

        Raises
        ------
        TypeError, ValueError
            For a mask of the wrong dtype or shape.

        Examples
        --------
        >>> ring = DrafterRing.empty(rows=2, drafters=1, slots=1)
        >>> ring.seen.fill_(1).tolist()
        [1, 1]
        >>> ring.reset_rows(torch.tensor([True, False]))
        >>> ring.seen.tolist()
        [0, 1]
        """
        require_rows("DrafterRing.reset_rows", self.seen, torch.bool, mask=mask)
        self.seen.masked_fill_(mask, 0)


def observe_drafters(
    bandit: BanditState,
    ring: DrafterRing,
    gamma: Tensor,  # [B, A, N]
    count: Tensor,  # [B]
    group: Tensor | None = None,  # [B]
    live: Tensor | None = None,  # [B]
    rows: Tensor | None = None,  # [B]
) -> None:
    r"""Teach a hedge whose arms are drafters, each of which followed the verified tokens.

    Of a position t of the text, drafter i would have had

    .. math:: AL_i(t) = 1 + \sum_{k=1}^{K} \prod_{j \le k} \gamma_{i,t+j}

    tokens emitted by a round of K drafts, on average over its draws; its loss is
    :math:`1 - AL_i(t) / (K + 1)`. Every position counts once, whoever drafted there and wherever
    rounds began, as soon as the K tokens after it are verified. No drafter need be tried: ``hedge``
    and ``normalhedge`` (with ``epsilon=0``) explore nothing.

    Call it in place of :func:`bandit_update`, which has ``hedge`` judge stop rules by the draft of
    one drafter.

    Parameters
    ----------
    bandit : BanditState
        Of policy ``hedge`` or ``normalhedge``, arm i being drafter i. For every position its tables
        are discounted, then ``reward_sq`` of arm i gets its loss, or under ``normalhedge`` its
        regret against the weights that the row's arm was drawn with (``arm_prob``). One position is
        one pull, shared by the arms: ``count`` gets 1 / A each and ``reward_sum`` AL / (K + 1) / A,
        so that their quotient is the mean of every drafter. ``tokens`` and ``cost`` stay.
    ring : DrafterRing
        Moved on.
    gamma : Tensor
        [B, A, N] float64: the chance that drafter i, given the verified text before it, has the
        n-th new token accepted: the sum of min(p_target, p_draft) (:func:`verify` has it as
        ``overlap``); where one token is drafted for certain, p_target of it; under rules ``greedy``
        and ``gumbel`` 1 if it is the verified token, else 0. Clipped to [0, 1], NaN is 0. N is any
        number of columns, K + 1 where a round is told at once.
    count : Tensor
        [B] int32: how many of the N are verified tokens, clipped to [0, N].
    group, live, rows : Tensor, optional
        As for :func:`bandit_update`; ``rows`` also of the ring.

    Raises
    ------
    TypeError, ValueError
        For another policy, or a tensor of the wrong dtype, shape or device; nothing is written.

    Notes
    -----
    Tables are changed row by row; a row's positions are summed first, in their order. That every
    position counts, and what becomes of a request's end, is this project's reading.

    Source: Not-a-Bandit, arXiv 2510.20064.

    Examples
    --------
    Two drafters, one always right, one never; K = 2. The first position is judged by the tokens
    after it once both are known.

    >>> bandit = BanditState.create(arms=2, policy="hedge", rows=1)
    >>> ring = DrafterRing.empty(rows=1, drafters=2, slots=2)
    >>> right = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    >>> one = torch.tensor([1], dtype=torch.int32)
    >>> observe_drafters(bandit, ring, right, one)
    >>> bandit.count.tolist()
    [[0.0, 0.0]]
    >>> observe_drafters(bandit, ring, right, one)
    >>> bandit.count.tolist(), bandit.reward_sq.round(decimals=3).tolist()
    ([[0.5, 0.5]], [[0.0, 0.667]])
    """
    _check(bandit, ring, gamma, count, group, live, rows)
    state = StateRows(rows, ring.seen.shape[0], gamma.device)
    index, learns = groups_of(group, state.index, bandit.groups)
    learns = learns & state.known if live is None else learns & state.known & live
    slots, columns = ring.gamma.shape[-1], torch.arange(gamma.shape[-1], device=gamma.device)
    verified = torch.where(learns, count.clamp(0, gamma.shape[-1]), 0)
    seen = ring.seen[state.index]
    chances = torch.where(gamma > 0, gamma, 0.0).clamp(max=1)
    chances = torch.cat((ring.gamma[state.index], chances), -1)  # [B, A, K + N]
    known = (columns < verified[:, None]) & (seen[:, None] + columns + 1 >= slots)
    credits = _credits(bandit, _losses(chances, slots), bandit.arm_prob[state.index])
    _accumulate(bandit, credits, known, index)
    last = verified[:, None] + torch.arange(slots, device=gamma.device)  # [B, K]
    latest = chances.gather(-1, last[:, None].expand(-1, gamma.shape[1], -1))
    write_rows(ring.gamma, state.index, learns, latest)
    write_rows(ring.seen, state.index, learns, (seen + verified).clamp(max=slots))


def _losses(chances: Tensor, slots: int) -> Tensor:
    """[B, A, N]: of the position K tokens before each new one; of [B, A, K + N] chances."""
    columns = chances.shape[-1] - slots
    survival = length = torch.ones_like(chances[..., :columns])
    for k in range(1, slots + 1):
        survival = survival * chances[..., k : k + columns]
        length = length + survival
    return 1 - length / (slots + 1)


def _credits(bandit: BanditState, loss: Tensor, prob: Tensor) -> Tensor:
    """[B, 3, A, N]: what each position adds to count, reward_sum and reward_sq."""
    share = 1 / bandit.arms
    square = loss
    if bandit.policy == "normalhedge":
        epsilon = bandit.params[POLICY_PARAM]
        weight = (prob - epsilon / bandit.arms) / (1 - epsilon)  # [B, A]
        own = in_order_sum((weight[..., None] * loss).transpose(1, 2))  # [B, N]
        square = own[:, None] - loss
    return torch.stack((torch.full_like(loss, share), (1 - loss) * share, square), 1)


def _accumulate(bandit: BanditState, credits: Tensor, known: Tensor, index: Tensor) -> None:
    """Row after row, of each its positions in their order: the group is discounted and credited."""
    discount, tables = bandit.params[DISCOUNT], ("count", "reward_sum", "reward_sq")
    gain, keep = torch.zeros_like(credits[..., 0]), torch.ones_like(credits[:, :1, :1, 0])
    for n in range(known.shape[1]):
        here = known[:, n, None, None]
        gain = torch.where(here, gain * discount + credits[..., n], gain)
        keep = torch.where(here, keep * discount, keep)
    work = torch.stack([getattr(bandit, name) for name in tables], 1)  # [G, 3, A]
    for b in range(len(index)):
        row = index[b : b + 1]
        work[row] = work[row] * keep[b] + gain[b]
    for name, table in zip(tables, work.unbind(1), strict=True):
        getattr(bandit, name).copy_(table)


def _check(
    bandit: BanditState,
    ring: DrafterRing,
    gamma: Tensor,
    count: Tensor,
    group: Tensor | None,
    live: Tensor | None,
    rows: Tensor | None,
) -> None:
    if bandit.policy not in HEDGES:
        raise ValueError(f"{OP}: bandit must be one of {', '.join(HEDGES)}, got {bandit.policy!r}")
    require_tensor(OP, "gamma", gamma)
    known, arms, _ = ring.gamma.shape
    if arms != bandit.arms:
        raise ValueError(f"{OP}: ring must be of {bandit.arms} drafters, got {arms}")
    if bandit.arm_prob.shape[0] != known:
        raise ValueError(f"{OP}: ring must have {bandit.arm_prob.shape[0]} rows, got {known}")
    if gamma.dtype != torch.float64:
        got = str(gamma.dtype).removeprefix("torch.")
        raise TypeError(f"{OP}: gamma must be float64, got {got}")
    batch = gamma.shape[0] if rows is not None and gamma.dim() else known
    if gamma.dim() != 3 or gamma.shape[:2] != (batch, arms):
        raise ValueError(f"{OP}: gamma must be [{batch}, {arms}, N], got {list(gamma.shape)}")
    if gamma.device != bandit.count.device:
        raise ValueError(f"{OP}: gamma must be on {bandit.count.device}, got {gamma.device}")
    whole = {"count": count, "group": group, "rows": rows}
    given = {name: value for name, value in whole.items() if value is not None or name == "count"}
    require_rows(OP, gamma, torch.int32, **given)
    if live is not None:
        require_rows(OP, gamma, torch.bool, live=live)
