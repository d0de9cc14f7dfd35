"""The bandit's memory: one table of counts and rewards for every group of requests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._check import require_tensor
from .policies import WEIGHTED, check_policy, parameters

_TABLES = ("count", "reward_sum", "reward_sq", "tokens", "cost")
_TENSORS = (*_TABLES, "arm_prob", "calls", "cost_ratio", "params", "seed")
_SETTINGS = ("policy", "reward", "level", "slots")


@dataclass
class BanditState:
    """A multi-armed bandit whose every number is a device tensor.

    Parameters
    ----------
    count, reward_sum, reward_sq : Tensor
        [G, A] float64, or [G, A, K] at token level: pulls, their rewards and squared rewards, of
        each arm of each group. A discounted count is no integer. Under ``exp3``, ``exp3spec`` and
        ``hedge`` ``reward_sq`` is the sum of estimated losses, under ``normalhedge`` of regrets.
    tokens, cost : Tensor
        [G, A] float64: tokens emitted, and cost in target forwards (``1 + cost_ratio * drafted``).
    arm_prob : Tensor
        [R, A] float64, or [R, A, K] at token level: the probability of every arm when the arm of
        a row of state was drawn; written by ``bandit_select``, read when the round is learnt from.
        R is 0 for policies that do not read it.
    calls : Tensor
        [1] int64, number of selections: the round of the noise address, never reset.
    cost_ratio : Tensor
        [1] float32, cost of one draft step (and of verifying one more row) in target forwards;
        read when a round is learnt from, the caller may overwrite it.
    params : Tensor
        [8] float64 of the policy, the reward and the discount.
    seed : Tensor
        [1] int64, key of policies that draw at random.
    policy, reward, level : str
    slots : int
    """

    count: Tensor
    reward_sum: Tensor
    reward_sq: Tensor
    tokens: Tensor
    cost: Tensor
    arm_prob: Tensor
    calls: Tensor
    cost_ratio: Tensor
    params: Tensor
    seed: Tensor
    policy: str
    reward: str
    level: str
    slots: int

    @classmethod
    def create(
        cls,
        arms: int,
        groups: int = 1,
        slots: int = 1,
        level: str = "sequence",
        policy: str = "ucb1",
        reward: str | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        discount: float = 1.0,
        rows: int = 0,
        **policy_params: float,
    ) -> BanditState:
        r"""A bandit that has seen nothing.

        Parameters
        ----------
        arms, groups : int
            Arms, and independent tables (one for each request group or tenant).
        slots : int
            K of the proposals it learns from. Level ``token`` and reward ``throughput`` need it;
            nothing else depends on it.
        level : {"sequence", "token"}
            ``sequence``: one arm for a whole draft. ``token``: an arm for every slot, each slot
            with a table of its own.
        policy : {"ucb1", "ucb_tuned", "thompson_gaussian", "thompson_beta", "epsilon_greedy", \
"ucbspec", "exp3", "exp3spec", "hedge", "normalhedge", "metasd", "fixed"}
            How an arm is picked, see :func:`bandit_select`. ``ucb1`` takes ``exploration`` (1; 0.1
            with ``throughput``), as does ``metasd``; ``thompson_gaussian`` ``sigma`` (0.5; 0.05),
            ``epsilon_greedy`` ``epsilon`` (0.1), as do ``exp3``, ``hedge`` (0) and ``normalhedge``
            (0.1); ``ucbspec`` ``delta`` (0.1), ``fixed`` ``arm`` (0).
        reward : str, optional
            How a round is judged, see :func:`bandit_update`. Level ``sequence``: ``blend`` (the
            default; takes ``alpha``, 0.5), ``simple``, ``throughput`` or ``overlap``. Level
            ``token``: ``decision`` (the default) or ``token_accept``. ``ucbspec`` and ``exp3spec``
            take ``simple`` alone: it is their own reward, n_acc + 1, on another scale. ``hedge``
            and ``normalhedge`` take all but ``throughput``: what a shorter draft would have earned.
            ``metasd`` is ``ucb1`` with ``overlap``.
        seed : int
            Key of the policies that draw at random.
        device : torch.device or str, optional
        discount : float
            In (0, 1]: what a table keeps of its past at every credited round of its group, for
            traffic that drifts; 1 forgets nothing.
        rows : int
            R, rows of the arms that are chosen (B without ``rows``). ``exp3``, ``exp3spec``,
            ``hedge`` and ``normalhedge`` need it, to remember how likely each row's arm was.
        **policy_params : float
            The parameters named above.

        Raises
        ------
        ValueError
            For an unknown policy, level or parameter, a reward of the other level, ``ucb_tuned``
            or one that draws by weight with ``throughput`` (no sum over rounds), ``ucbspec``,
            ``exp3spec`` or ``metasd`` with a reward that is not theirs, these or a hedge at level
            ``token``, a value out of range, or sizes below 1.

        Notes
        -----
        Source: TapOut, arXiv 2511.02017; Auer et al. 2002 (UCB1, UCB-Tuned; another paper of that
        year: EXP3); BanditSpec, 2505.15141 (UCBSpec, EXP3Spec); Chaudhuri et al. 2009
        (NormalHedge). Hedging over drafters is Not-a-Bandit's, 2510.20064, and taught by
        :func:`observe_drafters`; the estimate over stop rules and hedge's rate are this project's,
        as are reward ``throughput``, credit ``decision`` and every default. ``overlap``: MetaSD,
        2604.05417.

        Examples
        --------
        >>> BanditState.create(arms=3, slots=6).count.tolist()
        [[0.0, 0.0, 0.0]]
        >>> BanditState.create(arms=3, slots=6, level="token", policy="thompson_beta").reward
        'decision'
        """
        if min(arms, groups, slots) < 1:
            raise ValueError(
                f"BanditState: arms, groups, slots must be >= 1, got {arms}, {groups}, {slots}"
            )
        reward = check_policy(policy, level, reward)
        values = parameters(policy, reward, arms, {**policy_params, "discount": discount})
        if policy in WEIGHTED and rows < 1:
            raise ValueError(f"BanditState: rows must be >= 1 with {policy}, got {rows}")
        rows = rows if policy in WEIGHTED else 0
        each = (groups, arms) if level == "sequence" else (groups, arms, slots)

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            count=zeros(*each), reward_sum=zeros(*each), reward_sq=zeros(*each),
            tokens=zeros(groups, arms), cost=zeros(groups, arms), arm_prob=zeros(rows, *each[1:]),
            calls=zeros(1, dtype=torch.int64), cost_ratio=zeros(1, dtype=torch.float32),
            params=torch.tensor(values, dtype=torch.float64, device=device),
            seed=torch.tensor([seed], dtype=torch.int64, device=device),
            policy=policy, reward=reward, level=level, slots=slots,
        )  # fmt: skip

    @property
    def groups(self) -> int:
        return self.count.shape[0]

    @property
    def arms(self) -> int:
        return self.count.shape[1]

    def for_rows(self, rows: int) -> BanditState:
        """This bandit, its tables shared, for another number of rows of arms.

        Parameters
        ----------
        rows : int
            R, where the policy reads ``arm_prob``; the new one holds no draw yet.

        Examples
        --------
        >>> bandit = BanditState.create(arms=2, policy="exp3", rows=1)
        >>> bandit.for_rows(3).arm_prob.shape
        torch.Size([3, 2])
        """
        rows = rows if self.policy in WEIGHTED else 0
        return replace(self, arm_prob=self.arm_prob.new_zeros(rows, *self.count.shape[1:]))

    def reset(self, groups: Tensor | None = None) -> None:
        """Forget what groups have learned, in place and without reading a tensor on the host.

        ``calls`` goes on: noise never repeats.

        Parameters
        ----------
        groups : Tensor, optional
            [G] bool, the groups to forget. None: all of them.

        Raises
        ------
        TypeError, ValueError
            For a mask of the wrong type, dtype, shape or device; nothing is written.

        Examples
        --------
        >>> bandit = BanditState.create(arms=2, groups=2)
        >>> bandit.count.fill_(5.0)[0].tolist()
        [5.0, 5.0]
        >>> bandit.reset(torch.tensor([True, False]))
        >>> bandit.count.tolist()
        [[0.0, 0.0], [5.0, 5.0]]
        """
        if groups is None:
            groups = torch.ones(self.groups, dtype=torch.bool, device=self.count.device)
        _like("BanditState.reset: groups", groups, torch.bool, (self.groups,))
        if groups.device != self.count.device:
            raise ValueError(
                f"BanditState.reset: groups must be on {self.count.device}, got {groups.device}"
            )
        for table in (getattr(self, name) for name in _TABLES):
            table.masked_fill_(groups.view(-1, *[1] * (table.dim() - 1)), 0.0)

    def state_dict(self) -> dict[str, Tensor | str | int]:
        """A snapshot: copies of all tensors, and the settings they belong to.

        Returns
        -------
        dict
            Tensors, strings and integers only: ``torch.load(..., weights_only=True)`` reads it.

        Examples
        --------
        >>> sorted(BanditState.create(arms=2).state_dict())[:3]
        ['arm_prob', 'calls', 'cost']
        """
        tensors = {name: getattr(self, name).clone() for name in _TENSORS}
        return tensors | {name: getattr(self, name) for name in _SETTINGS}

    def load_state_dict(self, state: dict[str, Tensor | str | int]) -> None:
        """Continue from a snapshot of a bandit of the same sizes and settings, in place.

        Parameters
        ----------
        state : dict
            From :meth:`state_dict`; its tensors may be on another device.

        Raises
        ------
        TypeError, ValueError
            For a missing or unknown entry, another policy, reward, level or K, or a tensor of the
            wrong dtype or shape; nothing is written.

        Examples
        --------
        >>> old, new = BanditState.create(arms=2), BanditState.create(arms=2)
        >>> bandit_select(old, batch=3).tolist()
        [0, 1, 0]
        >>> new.load_state_dict(old.state_dict())
        >>> new.calls.tolist()
        [1]
        """
        if not isinstance(state, dict):
            raise TypeError(
                f"BanditState.load_state_dict: state must be a dict, got {type(state).__name__}"
            )
        expected, found = {*_TENSORS, *_SETTINGS}, set(state)
        if found != expected:
            raise ValueError(
                f"BanditState.load_state_dict: state must have {', '.join(sorted(expected))}, "
                f"got {', '.join(sorted(map(str, found))) or 'none'}"
            )
        for name in _SETTINGS:
            own = getattr(self, name)
            if state[name] != own:
                raise ValueError(
                    f"BanditState.load_state_dict: {name} must be {own!r}, got {state[name]!r}"
                )
        for name in _TENSORS:
            own = getattr(self, name)
            _like(f"BanditState.load_state_dict: {name}", state[name], own.dtype, own.shape)
        for name in _TENSORS:
            getattr(self, name).copy_(state[name])


def _like(what: str, value: object, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    op, _, name = what.partition(": ")
    require_tensor(op, name, value)
    if value.dtype != dtype:
        raise TypeError(f"{what} must be {_short(dtype)}, got {_short(value.dtype)}")
    if value.shape != shape:
        raise ValueError(f"{what} must be {list(shape)}, got {list(value.shape)}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
