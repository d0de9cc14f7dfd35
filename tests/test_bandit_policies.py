"""Policies after BanditSpec and Not-a-Bandit: worked out by hand."""

from __future__ import annotations

import pytest
from helpers import raw
from helpers.episodes import choose
from helpers.mutants import Edit, Reference
from test_bandit import known

# ---- ucbspec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "sums", "best"), [
    ("ucbspec", [0.8, 5.49], 0), ("ucbspec", [0.8, 5.85], 1), ("ucb1", [0.8, 5.49], 1),
])  # fmt: skip
def test_ucbspec_by_hand(backend, policy, sums, best):
    """n = 4 and 9, t = 14, A = 2, delta = .1: ln(20 * 196) = 8.27385.

    Bonuses sqrt(5)/8 sqrt(1 + 2 (8.27385 + .80472)) = 1.22338 and
    sqrt(10)/18 sqrt(1 + 2 (8.27385 + 1.15129)) = .78273; over the total count they would be equal.
    Means .2 and .61: 1.42338 and 1.39273; .65: 1.43273.  ucb1: 1.34867 and 1.37577.
    """
    assert policy_by_hand(raw.caller(backend), policy, sums) == best


def policy_by_hand(call: raw.Call, policy: str, sums: list[float]) -> int:
    bandit = known([4.0, 9.0], sums, policy=policy, reward="simple", slots=4)
    arm = choose(call, bandit)
    assert bandit.count.tolist() == [[4.0, 9.0]], "a choice is no pull yet"
    return arm.item()


def test_ucbspec_pending_pulls(backend):
    """t = 2 + 4, A = 2: ln(20 * 36) = 6.57925; bonuses of n = 1, 2, 3: 2.72504, 1.69136, 1.31423.

    Means 0 and .9: 2.725 and 3.625, arm 1, then 2.591; arm 0, then 1.691; arm 1, then 2.214.
    """
    bandit = known([1.0, 1.0], [0.0, 0.9], policy="ucbspec")
    assert choose(raw.caller(backend), bandit, 4).tolist() == [1, 0, 1, 1]


def test_ucbspec_tries_every_arm_once_lowest_first(backend):
    bandit = known([0.0, 3.0, 0.0], [0.0, 3.0, 0.0], policy="ucbspec")
    assert choose(raw.caller(backend), bandit, 2).tolist() == [0, 2]


def test_the_total_count_in_the_bonus_is_seen():
    """As the paper's released code has it: every arm's bonus is the same, the best mean wins."""
    line = "0.5 * ((1 + pulls).sqrt() / pulls)"
    wrong = Reference(Edit("bandit.py", line, line.replace("pulls", "log_t.exp()")))
    assert policy_by_hand(raw.caller_of(wrong.ops), "ucbspec", [0.8, 5.49]) == 1
