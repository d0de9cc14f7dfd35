"""What bandits lose in a world that does not change: less than their theory allows.

Three stop rules, 1, 2 and 4 drafts of K = 4, each accepted with chance .9.  The bounds hold in the
mean over many worlds and are far from tight, so one world has to keep them; uniform play does not.
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers import raw
from helpers.device import few
from helpers.episodes import choose, teach

from tapout_kernels import BanditState, StopRules, StopState
from tapout_kernels.reference.stop import RULE

K, ROUNDS = 4, 2000
LENGTHS = (1, 2, 4)
RULES = StopRules(*(("fixed_length", {"n": n}) for n in LENGTHS))
MEANS = [sum(0.9**j for j in range(1, n + 1)) / K for n in LENGTHS]
GAPS = [max(MEANS) - mean for mean in MEANS]
UNIFORM = sum(GAPS) / len(GAPS)  # a round


def regret(call: raw.Call, policy: str, rounds: int, **settings) -> float:
    """Of what is expected of the arms that were played."""
    rules = StopState.of(1, RULES)
    bandit = BanditState.create(3, slots=K, policy=policy, reward="simple", rows=1, seed=5,
                                **settings)  # fmt: skip
    generator, lost = torch.Generator().manual_seed(1), 0.0
    table = {"rule_kind": RULES.kind, "rule_param": RULES.param, "memory": rules.memory}
    for _ in range(rounds):
        arm = choose(call, bandit)
        good = (torch.rand(K, generator=generator) < 0.9).long().cumprod(0).sum().item()
        length = LENGTHS[arm.item()]
        teach(call, bandit, arm, [min(good, length)], [length], RULE, **table)
        lost += GAPS[arm.item()]
    return lost


def ucbspec_bound(rounds: int, delta: float = 0.1) -> float:
    """An arm is not played any more once twice its bonus is below its gap; delta n for the rest."""

    def bonus(n: int) -> float:
        log = math.log(3 * rounds**2 * math.sqrt(1 + n) / delta)
        return math.sqrt((1 + n) / n**2 * (1 + 2 * log)) / 2

    pulls = [next(n for n in range(1, rounds) if 2 * bonus(n) < gap) if gap else 0 for gap in GAPS]
    return sum(gap * n for gap, n in zip(GAPS, pulls, strict=True))


def exp3_bound(rounds: int) -> float:
    """2 sqrt(T A ln A) for eta = sqrt(ln A / (t A)): Bubeck and Cesa-Bianchi 2012, theorem 3.1."""
    return 2 * math.sqrt(rounds * 3 * math.log(3))


def hedge_bound(rounds: int) -> float:
    """ln A / eta_T + sum eta_t / 2 sum_i w_i / P_i, which is at most A: (1 + A) sqrt(T ln A)."""
    return 4 * math.sqrt(rounds * math.log(3))


BOUNDS = {
    "ucbspec": ucbspec_bound, "exp3": exp3_bound, "exp3spec": exp3_bound, "hedge": hedge_bound,
    # No bound is known of NormalHedge on estimates: half of what uniform play loses.
    "normalhedge": lambda rounds: UNIFORM * rounds / 2,
}  # fmt: skip


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("policy", BOUNDS)
@pytest.mark.sliced(4)
def test_regret_is_within_its_bound(backend, policy):
    rounds = few(backend, ROUNDS, 1200)
    bound = BOUNDS[policy](rounds)
    assert bound <= 0.6 * UNIFORM * rounds, "a bound that says something"
    assert regret(raw.caller(backend), policy, rounds) <= bound


def test_uniform_play_keeps_no_bound():
    lost = regret(raw.reference, "exp3", ROUNDS, epsilon=1.0)
    assert lost == pytest.approx(UNIFORM * ROUNDS, rel=0.1)
    assert all(lost > bound(ROUNDS) for bound in BOUNDS.values())
