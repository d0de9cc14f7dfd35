"""Hedges over drafters learn: who is best, without trying, and what not knowing costs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import tapout_kernels as tk
from tapout_kernels import BanditState, DrafterRing

Observe = Callable[..., None]
OBSERVE: Observe = tk.observe_drafters
HEDGES = ("hedge", "normalhedge")
SLOTS, ROUND = 2, 3


class World:
    """Drafters with a chance per token of their own, which may change; rounds of ROUND tokens."""

    def __init__(self, policy: str, observe: Observe = OBSERVE, seed: int = 1, **settings: float):
        epsilon = {"epsilon": 0.0} if policy == "normalhedge" else {}
        self.bandit = BanditState.create(4, policy=policy, rows=1, seed=seed, **epsilon, **settings)
        self.ring, self.observe = DrafterRing.empty(1, 4, SLOTS), observe
        self.generator = np.random.default_rng(seed)
        self.right, self.prob = [], []  # of every position, [4] each
        self.drawn: list[int] = []

    def run(self, rounds: int, chances: list[float]) -> None:
        state = torch.zeros(1, dtype=torch.int32)
        for _ in range(rounds):
            tk.bandit_select(self.bandit, out=state)
            self.drawn.append(int(state))
            right = self.generator.random((ROUND, 4)) < chances
            self.right.extend(right)
            self.prob.extend([self.bandit.arm_prob[0].tolist()] * ROUND)
            gamma = torch.from_numpy(right.T[None].astype(float))
            self.observe(self.bandit, self.ring, gamma, torch.tensor([ROUND], dtype=torch.int32))

    @property
    def regret(self) -> float:
        """What the draws lose on average beyond the best drafter of all positions."""
        text = np.lib.stride_tricks.sliding_window_view(np.array(self.right), SLOTS, axis=0)
        loss = 1 - (1 + text.cumprod(-1).sum(-1)) / (SLOTS + 1)  # [positions, 4]
        return (loss * np.array(self.prob)[: len(loss)]).sum() - loss.sum(0).min()


BEST = [0.3, 0.5, 0.7, 0.4]


@pytest.mark.parametrize("policy", HEDGES)
def test_the_best_drafter_is_found_without_exploring(policy):
    world = World(policy)
    world.run(300, BEST)
    assert set(world.drawn[:10]) != {2}, "nothing is known at first"
    assert world.drawn[-100:].count(2) >= 95
    value = (world.bandit.reward_sum / world.bandit.count)[0]
    exact = torch.tensor([(1 + g + g * g) / 3 for g in BEST])
    # AL / 3 is in [1/3, 1], so it deviates by 1/3 at most: 5 standard errors of the mean of that
    # half of 899 positions that share no token.
    assert (value - exact).abs().max() < 5 * (1 / 3) / math.sqrt(899 / 2)


@pytest.mark.parametrize("policy", HEDGES)
def test_it_follows_a_change_when_the_past_is_discounted(policy):
    late = {}
    for discount in (0.98, 1.0):
        world = World(policy, discount=discount)
        world.run(100, BEST)
        world.run(100, [0.9, *BEST[1:]])
        late[discount] = world.drawn[-50:].count(0)
    assert late[0.98] > 20 > 5 > late[1.0]


def textbook(rounds: int) -> float:
    """Hedge's regret over T losses in [0, 1] each, whatever they are.

    Told at once, exponential weights of rates eta_t = sqrt(ln A / t) lose at most
    ln A / eta_T + sum eta_t / 8 <= 1.25 sqrt(T ln A) more than the best arm. Here up to d losses
    are missing. One changes the logarithms of the weights by at most 1.5 eta: by eta itself, and
    by what the rate falls; and their mean loss by a quarter of that, as a covariance of two numbers
    in [0, 1] and [0, 1.5 eta]. Together at most d sum of .375 eta <= .75 d sqrt(T ln A), and the
    first d positions, where nothing is known, lose no more than d.
    """
    late, total = SLOTS + ROUND, ROUND * rounds
    return (1.25 + 0.75 * late) * math.sqrt(total * math.log(4)) + late


def test_hedge_regrets_less_than_the_textbook_says():
    world, wrong = World("hedge"), World("hedge", lambda *_: None)
    for block in range(8):  # the leader changes; the second is best over all
        world.run(100, [0.9, 0.6, 0.2, 0.1] if block % 2 else [0.1, 0.6, 0.2, 0.6])
    wrong.run(800, BEST)
    assert world.regret < textbook(800) < wrong.regret


def only_who_ran(world: World) -> Observe:
    """Of a round its own drafter alone is judged."""

    def observe(bandit: BanditState, ring: DrafterRing, gamma: torch.Tensor, count: torch.Tensor):
        before = bandit.reward_sq.clone()
        OBSERVE(bandit, ring, gamma, count)
        others = torch.arange(4) != world.drawn[-1]
        bandit.reward_sq[:, others] = before[:, others]

    return observe


def test_judging_only_who_drafted_learns_badly():
    """Whoever drafts looks worse than those who do not."""
    world = World("hedge")
    world.observe = only_who_ran(world)
    world.run(300, BEST)
    assert world.drawn[-100:].count(2) < 95
