"""Names and parameters of bandit policies and rewards, as people give them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from .reference.bandit import ALPHA, DISCOUNT, NUM_PARAMS, POLICIES, POLICY_PARAM

# Rewards of each level; the first is the default.
LEVELS: dict[str, tuple[str, ...]] = {
    "sequence": ("blend", "simple", "throughput", "overlap"),
    "token": ("decision", "token_accept"),
}
# Policies with a reward of their own. That of BanditSpec, Y = n_acc + 1 of range L = K, is `simple`
# on another scale: (Y - 1) / L is n_acc / K.
_OWN_REWARD = {"ucbspec": "simple", "exp3spec": "simple", "metasd": "overlap"}
# The hedges learn of every arm, by what its stop rule would have done.
HEDGES = ("hedge", "normalhedge")
# What they learn from a round is divided by the probability its arm was drawn with.
WEIGHTED = ("exp3", "exp3spec", *HEDGES)


def check_policy(policy: str, level: str, reward: str | None) -> str:
    """The reward's name (None: the policy's own, or the level's), if the three go together."""
    _one_of("policy", policy, tuple(POLICIES))
    _one_of("level", level, tuple(LEVELS))
    if policy in (*_OWN_REWARD, *HEDGES) and level != "sequence":
        raise ValueError(f"BanditState: level must be sequence with {policy}, got {level!r}")
    own = _OWN_REWARD.get(policy)
    reward = own or LEVELS[level][0] if reward is None else reward
    _one_of(f"reward at level {level}", reward, LEVELS[level])
    if own and reward != own:
        raise ValueError(f"BanditState: reward must be {own} with {policy}, got {reward!r}")
    if policy in ("ucb_tuned", *WEIGHTED) and reward == "throughput":
        raise ValueError(
            f"BanditState: reward must be blend, simple or overlap with {policy}, got 'throughput'"
        )
    return reward


def suits(policy: str, level: str, reward: str) -> bool:
    """Whether :func:`check_policy` lets the three go together."""
    try:
        check_policy(policy, level, reward)
    except ValueError:
        return False
    return True


def _one_of(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"BanditState: {what} must be one of {', '.join(known)}, got {name!r}")


class _Parameter(NamedTuple):
    column: int
    default: float
    range: str  # as the error says it
    holds: Callable[[float], bool]


def _parameters(policy: str, reward: str, arms: int) -> dict[str, _Parameter]:
    """What ``policy`` and ``reward`` take, by name."""

    def share(column: int, default: float) -> _Parameter:
        return _Parameter(column, default, "in [0, 1]", lambda x: 0 <= x <= 1)

    def scale(default: float) -> _Parameter:
        return _Parameter(POLICY_PARAM, default, "a number >= 0", lambda x: 0 <= x < math.inf)

    # Both stand for the standard deviation of a round's reward; that of `throughput`, tokens less
    # their cost over 2 (K + 1), is a tenth or less.
    exploration, sigma = (0.1, 0.05) if reward == "throughput" else (1.0, 0.5)
    of_policy = {
        "fixed": {"arm": _Parameter(POLICY_PARAM, 0, f"in [0, {arms})", range(arms).__contains__)},
        "ucb1": {"exploration": scale(exploration)},
        "metasd": {"exploration": scale(exploration)},
        "thompson_gaussian": {"sigma": scale(sigma)},
        "epsilon_greedy": {"epsilon": share(POLICY_PARAM, 0.1)},
        "exp3": {"epsilon": share(POLICY_PARAM, 0.0)},
        "hedge": {"epsilon": share(POLICY_PARAM, 0.0)},
        "normalhedge": {
            "epsilon": _Parameter(POLICY_PARAM, 0.1, "in [0, 1)", lambda x: 0 <= x < 1),
        },
        "ucbspec": {
            "delta": _Parameter(POLICY_PARAM, 0.1, "in (0, 1)", lambda x: 0 < x < 1),
        },
    }
    discount = _Parameter(DISCOUNT, 1.0, "in (0, 1]", lambda x: 0 < x <= 1)
    of_reward = {"blend": {"alpha": share(ALPHA, 0.5)}}
    return of_policy.get(policy, {}) | of_reward.get(reward, {}) | {"discount": discount}


def parameters(policy: str, reward: str, arms: int, given: dict[str, float]) -> list[float]:
    """The vector of parameters, from those given by name and the defaults."""
    known = _parameters(policy, reward, arms)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"BanditState: {policy} with {reward} takes {', '.join(known)}, "
            f"got {', '.join(unknown)}"
        )
    values = [0.0] * NUM_PARAMS
    for name, (column, default, expected, holds) in known.items():
        value = given.get(name, default)
        if not holds(value):
            raise ValueError(f"BanditState: {name} must be {expected}, got {value}")
        values[column] = float(value)
    return values
