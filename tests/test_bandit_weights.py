"""Policies that draw by weight: by hand, unbiased over their draws, sound after many rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import chi2, raw
from helpers.episodes import choose, teach
from helpers.mutants import Edit, Reference
from test_bandit import known
from test_bandit_draws import uniforms

from tapout_kernels import BanditState

K = 4


def exp3(counts, losses, rows: int, **settings) -> BanditState:
    """A bandit that has seen this; ``reward_sq`` is the sum of estimated losses."""
    settings = {"policy": "exp3", "reward": "simple", "slots": K, **settings}
    return known(counts, [0.0] * len(counts), losses, rows=rows, **settings)


# ---- by hand -------------------------------------------------------------------------------------


def check_distribution(call: raw.Call) -> None:
    """n = 3 + 1, t = 5, A = 2: eta = sqrt(ln 2 / 10) = .263277; weights 1, e^(-2 eta) = .590636."""
    bandit = exp3([3.0, 1.0], [2.0, 4.0], rows=3)
    choose(call, bandit, 3)
    share = 1 / (1 + math.exp(-2 * math.sqrt(math.log(2) / 10)))
    assert share == pytest.approx(0.628679, abs=1e-6)
    expected = torch.tensor([[share, 1 - share]] * 3, dtype=torch.float64)
    torch.testing.assert_close(bandit.arm_prob, expected, rtol=1e-14, atol=0)


def test_exp3_draws_from_exponential_weights(backend):
    check_distribution(raw.caller(backend))


def test_epsilon_mixes_with_the_uniform_distribution(backend):
    bandit = exp3([3.0, 1.0], [2.0, 4.0], rows=1, epsilon=0.5)
    choose(raw.caller(backend), bandit)
    share = 1 / (1 + math.exp(-2 * math.sqrt(math.log(2) / 10)))
    expected = torch.tensor([[0.5 * share + 0.25, 0.75 - 0.5 * share]], dtype=torch.float64)
    torch.testing.assert_close(bandit.arm_prob, expected, rtol=1e-14, atol=0)


def check_estimates(call: raw.Call) -> None:
    """K = 4: 1 of 4 accepted is a loss of .75, 3 of 4 one of .25, over .2 and .5.

    The last row's arm was not drawn: it teaches nothing.
    """
    bandit = exp3([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], rows=3)
    bandit.arm_prob.copy_(torch.tensor([[0.2, 0.3, 0.5], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]))
    teach(call, bandit, torch.tensor([0, 2, 1]).int(), [1, 3, 4], [4, 4, 4])
    expected = torch.tensor([[3.75, 0.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(bandit.reward_sq, expected, rtol=1e-6, atol=0)
    assert bandit.count.tolist() == [[1.0, 0.0, 1.0]]
    assert bandit.reward_sum.tolist() == [[0.25, 0.0, 0.75]], "what arms earned, as ever"
    assert bandit.tokens.tolist() == [[2.0, 5.0, 4.0]]


def test_losses_are_divided_by_the_probability_of_the_draw(backend):
    check_estimates(raw.caller(backend))


def check_memory_of_the_draw(call: raw.Call) -> None:
    """Row 1 finishes after what row 0 taught: its own draw counts, not what it would be now."""
    bandit = exp3([0.0, 0.0], [0.0, 0.0], rows=2)
    choose(call, bandit, 2)
    arm, status = torch.tensor([0, 0]).int(), torch.tensor([0, 1]).int()
    for _ in range(5):
        teach(call, bandit, arm, [0, 0], [4, 4], status=status)
    before = bandit.reward_sq.clone()
    assert before.tolist() == [[10.0, 0.0]]
    choose(call, bandit, 1, rows=torch.tensor([0]).int(), arm=arm.clone())
    assert bandit.arm_prob[0, 0] < 0.25
    teach(call, bandit, arm, [0, 0], [4, 4], status=1 - status)
    assert (bandit.reward_sq - before).tolist() == [[2.0, 0.0]]


def test_a_row_learns_from_its_own_draw(backend):
    check_memory_of_the_draw(raw.caller(backend))


def test_the_arm_is_the_inverse_cdf_of_its_address(backend):
    """lane = row, word = slot A 32, the first uniform; slots have distributions of their own."""
    bandit = BanditState.create(3, slots=2, level="token", policy="exp3", rows=20, seed=-7)
    bandit.count.copy_(torch.tensor([[[3.0, 0.0], [1.0, 2.0], [0.0, 9.0]]]))
    bandit.reward_sq.copy_(torch.tensor([[[2.0, 0.0], [4.0, 5.0], [1.0, 3.0]]]))
    bandit.calls.fill_(9)
    found = choose(raw.caller(backend), bandit, 20)
    for slot, (rounds, losses) in enumerate([(5, [2, 4, 1]), (12, [0, 5, 3])]):
        rate = math.sqrt(math.log(3) / (rounds * 3))
        weights = np.exp([-rate * loss for loss in losses])
        reached = np.cumsum(weights / weights.sum())
        expected = [int((uniforms(-7, b, slot * 3 * 32, 9)[0] >= reached).sum()) for b in range(20)]
        assert found[:, slot].tolist() == expected
        assert len(set(expected)) > 1


# ---- laws ----------------------------------------------------------------------------------------


@pytest.mark.interpreted_slow
def test_arms_are_drawn_as_often_as_they_should_be(backend):
    bandit = exp3([5.0, 5.0, 5.0], [2.0, 4.0, 9.0], rows=8000, seed=3)
    found = choose(raw.caller(backend), bandit, 8000).long()
    law = bandit.arm_prob[0].numpy()
    assert chi2.p_value(found[:, None], law) > 1e-3
    assert chi2.p_value(found[:, None], law + np.array([0.03, 0.0, -0.03])) < 1e-9


def bias(call: raw.Call) -> float:
    """Of the estimates over every draw of two rows in turn: sum of P(draws) times estimates."""
    accepted = [0, 3, 1]
    total = torch.zeros(3, dtype=torch.float64)
    for first in range(3):
        for second in range(3):
            bandit, mass = exp3([1.0, 2.0, 3.0], [3.0, 1.0, 0.5], rows=2, discount=1.0), 1.0
            for arm in (first, second):
                choose(call, bandit, 2)
                mass *= bandit.arm_prob[1, arm].item()
                teach(call, bandit, torch.tensor([0, arm]).int(), [0, accepted[arm]], [4, 4],
                      status=torch.tensor([1, 0]).int())  # fmt: skip
            total += mass * (bandit.reward_sq[0] - torch.tensor([3.0, 1.0, 0.5]))
    losses = 1 - torch.tensor(accepted, dtype=torch.float64) / K
    return (total - 2 * losses).abs().max().item()


def test_estimates_are_unbiased_over_the_draws(backend):
    """The second round's distribution depends on the first draw; every path is enumerated."""
    assert bias(raw.caller(backend)) < 1e-12


# ---- a long run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", [[1e6, 9e5, 0.0], [1e300, 1e6, 2e6], [0.0, 3e8, 1e308]])
def test_a_million_rounds_overflow_nothing(backend, losses):
    bandit = exp3([4e5, 3e5, 3e5], losses, rows=4)
    arm = choose(raw.caller(backend), bandit, 4)
    assert bandit.arm_prob.isfinite().all()
    torch.testing.assert_close(bandit.arm_prob.sum(1), torch.ones(4, dtype=torch.float64))
    assert (bandit.arm_prob.gather(1, arm.long()[:, None]) > 0).all()
    assert (arm == int(np.argmin(losses))).all()


def test_an_arm_of_probability_0_is_never_drawn(backend):
    bandit = exp3([1.0] * 5, [1e9, 0.0, 1e9, 0.0, 1e9], rows=64)
    arm = choose(raw.caller(backend), bandit, 64)
    assert arm.unique().tolist() == [1, 3]


# ---- mutants -------------------------------------------------------------------------------------


MUTANTS = {
    "no importance weight": (
        check_estimates, Edit("weights.py", "(1 - reward) / torch.where(chance > 0, chance, 1.0)",
                              "1 - reward")),
    "the probability of another row": (
        check_estimates, Edit("weights.py", "[:2], -1)[row]", "[:2], -1)[row.flip(0)]")),
    "the probability as it is now": (
        check_memory_of_the_draw,
        Edit("bandit_update.py", "weights.chance_of(arm_prob, state.index, picked)",
             "weights.arm_probabilities(policy, count, reward_sq, params[1])[index][:, 0]"
             ".gather(1, picked)")),
    "rewards for losses": (
        check_estimates, Edit("weights.py", "(1 - reward) / torch", "reward / torch")),
    "a rate that forgets the number of arms": (
        check_distribution, Edit("weights.py", "[..., None]) * arms)", "[..., None]))")),
    "t without the coming round": (
        check_distribution, Edit("weights.py", "(1 + in_order_sum(count)", "(in_order_sum(count)")),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_weights_are_seen(name):
    check, edit = MUTANTS[name]
    with pytest.raises(AssertionError):
        check(raw.caller_of(Reference(edit).ops))


def test_a_biased_estimate_is_seen():
    wrong = Reference(MUTANTS["the probability as it is now"][1])
    assert bias(raw.caller_of(wrong.ops)) < 1e-12, "of a row that learns at once it is the same"
    wrong = Reference(MUTANTS["no importance weight"][1])
    assert bias(raw.caller_of(wrong.ops)) > 0.1
