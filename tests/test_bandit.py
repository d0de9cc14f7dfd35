"""Bandits: who is picked and what a round teaches, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from helpers.rounds import select, update_arguments

from tapout_kernels import BanditState, StopRules, StopState

NONE, RULE, MAX_LENGTH, PRE_DRAFT = range(4)


def known(counts, sums, squares=None, **fields) -> BanditState:
    """A bandit that has seen this; squares of 0 and 1 are their sums."""
    bandit = BanditState.create(arms=len(counts), **fields)
    for table, values in ((bandit.count, counts), (bandit.reward_sum, sums),
                          (bandit.reward_sq, sums if squares is None else squares)):  # fmt: skip
        table.copy_(torch.tensor([values], dtype=torch.float64).view(table.shape))
    return bandit


def learn(bandit, arm, accepted, length, reason, slots, backend, **rules) -> None:
    """One round of every row of ``arm``."""
    update = update_arguments(bandit, arm, accepted, length, slots)
    update.proposal.stop_reason.copy_(torch.tensor(reason))
    update.run(backend, **rules)


# ---- policies, by hand -------------------------------------------------------------------------


def test_ucb_tuned_prefers_the_arm_whose_reward_varies(backend):
    """n = 400 each, t = 801, ln t / n = .016714, its doubled root .18284.

    Arm 0 has 0/1 rewards: variance 1/4, .25 at most: .5 + sqrt(.016714 * .25) = .56464.
    Arm 1 always .505: variance 0: .505 + sqrt(.016714 * .18284) = .56028; with 1/4, .56964.
    """
    tables = ([400.0, 400.0], [200.0, 202.0], [200.0, 102.01])
    assert select(known(*tables, policy="ucb_tuned"), backend=backend).tolist() == [0]
    assert select(known(*tables), backend=backend).tolist() == [1]  # ucb1: equal bonuses


def test_ucb_tuned_pending_pulls(backend):
    """t = 3 + 12, ln t = 2.708, the spread always above 1/4: mean + .8228 / sqrt(n).

    Arm 0 (n = 2) scores .5 + .5818 = 1.0818.  Arm 1 after its pulls: .75 + .8228, .5818, .4750,
    .4114, .3680, .3359 (1.0859), .3110 (1.0610): row 6 takes arm 0, whose .9750 then stays below.
    """
    bandit = known([2.0, 1.0], [1.0, 0.75], policy="ucb_tuned")
    assert select(bandit, batch=12, backend=backend).tolist() == [1] * 6 + [0] + [1] * 5
    assert bandit.count.tolist() == [[2.0, 1.0]], "a choice is no pull yet"


@pytest.mark.parametrize("policy", ["ucb1", "ucb_tuned", "epsilon_greedy"])
def test_every_arm_once_first_lowest_first(backend, policy):
    bandit = known([0.0, 3.0, 0.0], [0.0, 3.0, 0.0], policy=policy)
    if policy == "epsilon_greedy":
        bandit.params[1] = 0.0
        assert select(bandit, batch=3, backend=backend).tolist() == [0, 0, 0]  # nothing is pending
    else:
        assert select(bandit, batch=3, backend=backend).tolist() == [0, 2, 1]


def test_thompson_gaussian_without_spread_is_its_mean(backend):
    """(1/2 + sum r) / (n + 1): .5, .7, .625."""
    bandit = known([0.0, 1.0, 3.0], [0.0, 0.9, 2.0], policy="thompson_gaussian", sigma=0.0)
    assert select(bandit, batch=2, backend=backend).tolist() == [1, 1]


def test_thompson_beta_of_many_pulls_is_its_mean(backend):
    bandit = known([1e12] * 3, [5e11, 6e11, 4e11], policy="thompson_beta")
    assert select(bandit, batch=2, backend=backend).tolist() == [1, 1]


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_fixed_plays_its_arm_in_every_slot(backend, level):
    bandit = BanditState.create(arms=3, slots=2, level=level, policy="fixed", arm=2)
    expected = [2, 2] if level == "sequence" else [[2, 2], [2, 2]]
    assert select(bandit, batch=2, backend=backend).tolist() == expected


def test_every_slot_has_its_own_table(backend):
    """Slot 0 has tried arm 0, slot 1 arm 1; both rows count as pending in both slots."""
    bandit = known([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], slots=2, level="token")
    assert select(bandit, batch=2, backend=backend).tolist() == [[1, 0], [0, 1]]


# ---- credit, by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "length", "accepted", "reason", "expected"),
    [  # of slots 0..3; None: nothing learnt
        ("decision", 4, 4, MAX_LENGTH, [1, 1, 1, None]),  # K cut it
        ("decision", 2, 2, MAX_LENGTH, [1, None, None, None]),  # so did max_length
        ("decision", 3, 1, RULE, [0, 0, None, None]),  # token 1 rejected: 0 and 1 went on wrongly
        ("decision", 3, 2, RULE, [1, 0, 1, None]),  # stopped at the token that was rejected
        ("decision", 3, 3, RULE, [1, 1, 0, None]),  # stopped too early
        ("decision", 3, 2, MAX_LENGTH, [1, 0, None, None]),
        ("decision", 1, 0, RULE, [1, None, None, None]),
        ("decision", 1, 1, NONE, [None] * 4),
        ("decision", 0, 0, PRE_DRAFT, [0, None, None, None]),
        ("decision", 0, 0, MAX_LENGTH, [None] * 4),  # a limit of 0 is not the arm's doing
        ("token_accept", 3, 1, RULE, [1, 0, None, None]),
        ("token_accept", 3, 3, RULE, [1, 1, 1, None]),
        ("token_accept", 4, 4, MAX_LENGTH, [1, 1, 1, 1]),
        ("token_accept", 0, 0, PRE_DRAFT, [0, None, None, None]),
        ("token_accept", 0, 0, MAX_LENGTH, [None] * 4),
    ],
)
def test_token_level_credit(backend, reward, length, accepted, reason, expected):
    bandit = BanditState.create(arms=4, slots=4, level="token", reward=reward)
    bandit.cost_ratio.fill_(0.5)
    arm = torch.tensor([[3, 2, 1, 0]], dtype=torch.int32)
    learn(bandit, arm, [accepted], [length], [reason], 4, backend)
    for slot, r in enumerate(expected):
        counts, sums = [0.0] * 4, [0.0] * 4
        if r is not None:
            counts[3 - slot], sums[3 - slot] = 1.0, float(r)
        assert bandit.count[0, :, slot].tolist() == counts
        assert bandit.reward_sum[0, :, slot].tolist() == sums
        assert bandit.reward_sq[0, :, slot].tolist() == sums
    last = 3 - max(length - 1, 0)
    assert bandit.tokens[0].tolist() == [(accepted + 1.0) * (a == last) for a in range(4)]
    assert bandit.cost[0].tolist() == [(1 + 0.5 * length) * (a == last) for a in range(4)]


def test_token_level_memory_is_that_of_the_last_drafted_slot(backend):
    rules = StopRules("adaedl", "svip", "adaedl")
    state = StopState.of(3, rules)
    arm = torch.tensor([[0, 2, 0], [0, 1, 0], [2, 0, 0]], dtype=torch.int32)
    bandit = BanditState.create(arms=3, slots=3, level="token")
    before = state.memory.clone()
    learn(bandit, arm, [1, 1, 0], [2, 2, 0], [RULE, RULE, PRE_DRAFT], 3, backend,
          rules=rules, state=state)  # fmt: skip
    changed = (state.memory != before).any(-1)
    assert changed.tolist() == [[False, False, True], [False] * 3, [False] * 3]
    # AR = .5 * 0 + .5 * 1/2; lambda = .9 * .5 + .1 * .51
    torch.testing.assert_close(state.memory[0, 2, :2], torch.tensor([0.501, 0.25]))


def test_discount_by_hand(backend):
    """g = 1/2: a credit halves the group's table first, other groups stay."""
    bandit = BanditState.create(arms=2, groups=2, slots=4, reward="simple", discount=0.5)
    for table in (bandit.count, bandit.reward_sum, bandit.tokens, bandit.cost):
        table.fill_(8.0)
    arm = torch.tensor([0, 1, -1], dtype=torch.int32)
    learn(bandit, arm, [4, 2, 4], [4, 4, 4], [0, 0, 0], 4, backend)
    assert bandit.count.tolist() == [[2.5, 3.0], [8.0, 8.0]]
    assert bandit.reward_sum.tolist() == [[2.5, 2.5], [8.0, 8.0]]
    assert bandit.reward_sq.tolist() == [[0.5, 0.25], [0.0, 0.0]]
    assert bandit.tokens.tolist() == [[4.5, 5.0], [8.0, 8.0]]
    assert bandit.cost.tolist() == [[2.5, 3.0], [8.0, 8.0]]


# ---- throughput ----------------------------------------------------------------------------------


def test_throughput_ranks_by_tokens_per_cost_not_by_the_mean_of_ratios(backend):
    """A draft step costs .075 of a target forward; K = 12.

    Arm 0 accepts 5 of 10: 6 / 1.75 = 3.43.  Arm 1 drafts nothing, then 9 of 12: 1 / 1 and 10 / 1.9.
    The mean of arm 1's ratios is 3.13, its true throughput 11 / 2.9 = 3.79.
    """
    assert (1 / 1 + 10 / 1.9) / 2 < 6 / 1.75 < 11 / 2.9
    bandit = BanditState.create(
        2, slots=12, reward="throughput", policy="epsilon_greedy", epsilon=0
    )
    bandit.cost_ratio.fill_(0.075)
    arm = torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    for _ in range(5):
        learn(bandit, arm, [5, 0, 5, 9], [10, 0, 10, 12], [0] * 4, 12, backend)
    assert select(bandit, backend=backend).tolist() == [1]
    assert bandit.tokens.tolist() == [[60.0, 55.0]]
    torch.testing.assert_close(bandit.cost, torch.tensor([[17.5, 14.5]]).double())
    assert not bandit.reward_sum.any()
    assert not bandit.reward_sq.any()


def test_throughput_follows_the_cost_ratio_it_is_given(backend):
    """Long drafts win while drafting is cheap; the caller overwrites the ratio."""
    for ratio, best in ((0.05, 1), (0.6, 0)):
        bandit = BanditState.create(2, slots=8, reward="throughput", policy="epsilon_greedy",
                                    epsilon=0.0)  # fmt: skip
        bandit.cost_ratio.fill_(ratio)
        arm = torch.tensor([0, 1], dtype=torch.int32)
        learn(bandit, arm, [1, 3], [1, 8], [0, 0], 8, backend)
        assert select(bandit, backend=backend).tolist() == [best]


def test_throughput_needs_proposals_of_the_k_it_was_created_for():
    bandit = BanditState.create(2, slots=4, reward="throughput")
    with pytest.raises(ValueError, match=r"bandit_update: proposal must have 4 slots, .*got 3"):
        learn(bandit, torch.zeros(1, dtype=torch.int32), [1], [1], [0], 3, None)
    assert not bandit.count.any()
