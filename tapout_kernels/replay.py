"""Decoding once more from a table of drafts: any policy, millions of rounds a second.

Where the target's output does not depend on who drafted (rules ``greedy`` and ``gumbel``), what a
round would have done is known from its position, its drafter and its length alone. The rounds run
in the host library, by the code of :func:`bandit_select` and :func:`bandit_update` itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._replay_checks import check_bandit, check_drafters, require
from .backends import BackendUnavailable
from .bandit_state import BanditState
from .reference.bandit import POLICIES, REWARDS
from .stop_rules import StopRules

_UNAVAILABLE = ""
try:
    from . import _host
except ImportError as error:
    _host, _UNAVAILABLE = None, str(error)

TURN = ("round", "row", "position", "arm", "drafter", "drafted", "accepted", "emitted")
_BANDIT = ("count", "reward_sum", "reward_sq", "tokens", "cost", "calls", "params", "seed")


@dataclass(frozen=True)
class DraftTable:
    """What every drafter would have said at every position of R requests.

    Parameters
    ----------
    stats : array
        [P, D, K, 8] float32, as :func:`draft_step` leaves them in a proposal.
    offered : array
        [P, D] int32: tokens that drafter d has to offer at position p, at most K.
    accepted : array
        [P, D] int32: how many of them, from the first on, the target says itself.
    budget : array
        [P] int32: the longest draft allowed there.
    start : array
        [R + 1] int64: request r has the positions ``start[r]`` to ``start[r + 1]``.
    always : array
        [D] bool: drafters that are asked even where they offer nothing (models; not prompt
        lookup).

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, shape or number; the message names it.
    """

    stats: np.ndarray
    offered: np.ndarray
    accepted: np.ndarray
    budget: np.ndarray
    start: np.ndarray
    always: np.ndarray

    def __post_init__(self):
        if self.stats.ndim != 4:
            raise ValueError(f"replay: stats must be [P, D, K, 8], got {list(self.stats.shape)}")
        positions, drafters, slots, _ = self.stats.shape
        each = (positions, drafters)
        require("stats", self.stats, np.float32, (*each, slots, 8))
        require("offered", self.offered, np.int32, each, 0, slots)
        require("accepted", self.accepted, np.int32, each, 0, slots)
        require("budget", self.budget, np.int32, (positions,), 0)
        require("start", self.start, np.int64, (len(self.start),), 0, positions)
        require("always", self.always, np.bool_, (drafters,))
        whole = len(self.start) > 1 and self.start[0] == 0 and self.start[-1] == positions
        if not whole or (np.diff(self.start) < 0).any():
            raise ValueError(f"replay: start must rise from 0 to {positions}, got {self.start}")
        if (self.accepted > self.offered).any():
            raise ValueError("replay: accepted must not exceed offered, but does")

    @property
    def slots(self) -> int:
        return self.stats.shape[2]

    @property
    def drafters(self) -> int:
        return self.stats.shape[1]

    @property
    def requests(self) -> int:
        return len(self.start) - 1


@dataclass(frozen=True)
class RoundCosts:
    """What a round costs, in any unit of time; B is the most requests decoded together.

    A round of b requests costs ``verify[b - 1, 0]`` and, for each of them that drafted n tokens,
    its share of what n drafts for all would add, ``(verify[b - 1, n] - verify[b - 1, 0]) / b``; for
    each slot of each drafter ``draft[r - 1, d]``, r the requests that still draft there; and for
    each request that drafted ``catch_up[d]`` times the tokens emitted since its last draft by that
    drafter.

    Parameters
    ----------
    verify : array
        [B, K + 1] float64.
    draft : array
        [B, D] float64.
    catch_up : array
        [D] float64.
    ratio : array
        [B, D] float32: ``cost_ratio``, what the bandit is told a draft step costs.
    padded : bool
        Every request is charged as the one with the longest draft is, as where rows of a batch
        have one length: ``verify[b - 1, n]`` with the largest n, ``draft[b - 1, d]`` for every
        slot.
    """

    verify: np.ndarray
    draft: np.ndarray
    catch_up: np.ndarray
    ratio: np.ndarray
    padded: bool = False

    def __post_init__(self):
        if self.verify.ndim != 2 or self.draft.ndim != 2:
            raise ValueError("replay: verify must be [B, K + 1] and draft [B, D]")
        batch, drafters = self.draft.shape
        require("verify", self.verify, np.float64, (batch, self.verify.shape[1]), 0)
        require("draft", self.draft, np.float64, (batch, drafters), 0)
        require("catch_up", self.catch_up, np.float64, (drafters,), 0)
        require("ratio", self.ratio, np.float32, (batch, drafters), 0)


@dataclass(frozen=True)
class Rounds:
    """What was replayed, one entry for each request of each round; [n] int32 each but ``cost``.

    ``round``, ``row``: of the batch. ``position``: in the table. ``arm``: at token level that of
    the first slot. ``accepted`` is what the bandit learnt from; of a request that ends inside the
    block fewer tokens count, ``emitted``. ``cost`` [rounds] float64.
    """

    round: np.ndarray
    row: np.ndarray
    position: np.ndarray
    arm: np.ndarray
    drafter: np.ndarray
    drafted: np.ndarray
    accepted: np.ndarray
    emitted: np.ndarray
    cost: np.ndarray


def replay(
    table: DraftTable,
    rules: StopRules,
    bandit: BanditState,
    costs: RoundCosts,
    drafters: np.ndarray | None = None,
    requests: np.ndarray | None = None,
    batch: int = 1,
    horizon: int | None = None,
) -> Rounds:
    """Decode the table's requests under a policy.

    Parameters
    ----------
    table : DraftTable
    rules : StopRules
        The arms.
    bandit : BanditState
        Of one group, on the CPU; learns in place, as :func:`bandit_update` would have it.
    costs : RoundCosts
    drafters : array, optional
        [A, turns] int32: each arm's drafters; the first that has something to offer drafts, else
        the last. At level ``token`` those of the first slot's arm. None: drafter 0.
    requests : array, optional
        [N] int64: which requests, in the order in which they are admitted. None: all of them.
    batch : int
        Requests decoded together. One that ends makes room for the next, whose stop rules
        remember nothing; the bandit lives on.
    horizon : int, optional
        For ``hedge`` and ``normalhedge`` over drafters, one an arm: they learn of every position
        whose next ``horizon`` tokens are known, as :func:`observe_drafters` would have it of a ring
        of so many, told after every round which drafters' first drafts were right, of a request
        that ends all but the last one. Rounds then change ``tokens`` and ``cost`` alone, and cost
        what all drafters pay to read what was emitted. None: hedges judge stop rules.

    Returns
    -------
    Rounds

    Raises
    ------
    BackendUnavailable
        If the host library was not built.
    TypeError, ValueError
        For arrays that do not fit each other; nothing is learnt.

    Examples
    --------
    A drafter of two slots that is right every other time; four positions of one request.

    >>> table = DraftTable(
    ...     stats=np.zeros((4, 1, 2, 8), np.float32), offered=np.full((4, 1), 2, np.int32),
    ...     accepted=np.array([[2], [0], [1], [0]], np.int32),
    ...     budget=np.array([2, 2, 1, 0], np.int32), start=np.array([0, 4]),
    ...     always=np.array([True]),
    ... )
    >>> costs = RoundCosts(np.ones((1, 3)), np.full((1, 1), 0.1), np.zeros(1),
    ...                    np.full((1, 1), 0.1, np.float32))
    >>> rules = StopRules(("fixed_length", {"n": 2}))
    >>> rounds = replay(table, rules, BanditState.create(1, slots=2), costs)
    >>> rounds.position.tolist(), rounds.emitted.tolist(), rounds.cost.tolist()
    ([0, 3], [3, 1], [1.2, 1.0])
    >>> oracle(table, costs).cost.tolist()
    [2.2, 2.1, 1.1, 1.0]
    """
    _available("replay")
    drafters = np.zeros((len(rules), 1), np.int32) if drafters is None else drafters
    requests = np.arange(table.requests, dtype=np.int64) if requests is None else requests
    require("drafters", drafters, np.int32, (len(rules), drafters.shape[-1]), 0,
             table.drafters - 1)  # fmt: skip
    require("requests", requests, np.int64, (len(requests),), 0, table.requests - 1)
    check_bandit(bandit, rules, table.slots)
    if horizon is not None:
        check_drafters(bandit, drafters, horizon, table.slots)
    arrays = _inputs(table, costs) | {
        "kind": rules.kind.numpy(), "param": rules.param.numpy(),
        "initial_memory": rules.initial_memory.numpy(), "drafter": drafters, "requests": requests,
    }  # fmt: skip
    arrays |= {name: getattr(bandit, name).view(-1).numpy() for name in _BANDIT}
    table_slots = bandit.count.shape[2] if bandit.level == "token" else 1
    turns, cost = _host.replay(
        arrays,
        batch,
        costs.padded,
        table_slots,
        POLICIES[bandit.policy],
        REWARDS[bandit.reward],
        horizon or 0,
    )
    columns = dict(zip(TURN, np.ascontiguousarray(turns.T), strict=True))
    return Rounds(**columns, cost=cost)


@dataclass(frozen=True)
class Oracle:
    """The cheapest choices, [P] each: ``cost`` (float64) from a position to its request's end,
    and the ``drafter`` and the length, ``drafted`` (int32), that begin it."""

    cost: np.ndarray
    drafter: np.ndarray
    drafted: np.ndarray


def oracle(table: DraftTable, costs: RoundCosts) -> Oracle:
    """The least that the table's requests can cost, one at a time: a bound for every policy.

    A dynamic programme over what the target accepts. Catching up is not charged.

    Parameters
    ----------
    table : DraftTable
    costs : RoundCosts
        Of a batch of one.

    Returns
    -------
    Oracle
    """
    _available("oracle")
    return Oracle(*_host.oracle(_inputs(table, costs)))


def _inputs(table: DraftTable, costs: RoundCosts) -> dict[str, np.ndarray]:
    return {
        **{name: getattr(table, name) for name in table.__dataclass_fields__},
        "verify_cost": costs.verify, "draft_cost": costs.draft,
        "catch_up_cost": costs.catch_up, "cost_ratio": costs.ratio,
    }  # fmt: skip


def _available(op: str) -> None:
    if _host is None:
        raise BackendUnavailable(f"{op}: the host library was not built: {_UNAVAILABLE}")
