"""The native replay against a loop over the public operators, and the oracle against every path."""

from __future__ import annotations

import functools
import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers.slow_replay import SlowReplay

import tapout_kernels as tk
import tapout_kernels.replay
from tapout_kernels.policies import POLICIES, check_policy
from tapout_kernels.replay import DraftTable, RoundCosts, Rounds, oracle, replay

SLOTS, DRAFTERS = 5, 3
RULES = (
    ("fixed_length", {"n": 0}), ("fixed_length", {"n": 3}), ("max_confidence", {"threshold": 0.5}),
    ("svip", {"threshold": 1.0}), ("svip_difference", {}), ("logit_margin", {}), ("adaedl", {}),
    ("survival", {}), ("gammatune", {}), ("gammatune_plus", {}), ("heuristic", {}),
    ("hysteresis", {}), ("adasd_entropy", {}), ("adl", {}),
)  # fmt: skip
TURNS = np.array(
    [[0, 0], [1, 1], [2, 0], [0, 0], [2, 1], [2, 2], [0, 0], [1, 1]] + [[0, 1], [2, 0]] * 3,
    dtype=np.int32,
)  # drafter 2 is prompt lookup: it does not always have something to offer


def table(seed: int = 0, lengths: tuple[int, ...] = (17, 1, 40, 8, 25)) -> DraftTable:
    rng = np.random.default_rng(seed)
    positions = sum(lengths)
    stats = np.zeros((positions, DRAFTERS, SLOTS, 8), np.float32)
    top = np.sort(rng.random((positions, DRAFTERS, SLOTS, 2)), -1)
    stats[..., 1] = 3 * rng.random((positions, DRAFTERS, SLOTS))
    stats[..., 2], stats[..., 3] = top[..., 1], (1 - top[..., 1]) * top[..., 0]
    offered = np.full((positions, DRAFTERS), SLOTS, np.int32)
    offered[:, 2] = rng.integers(0, SLOTS + 1, positions) * (rng.random(positions) < 0.6)
    accepted = np.minimum(rng.integers(0, SLOTS + 1, (positions, DRAFTERS)), offered)
    start = np.cumsum((0, *lengths))
    left = np.concatenate([np.arange(n)[::-1] for n in lengths])
    return DraftTable(
        stats, offered, accepted.astype(np.int32),
        np.minimum(left, SLOTS).astype(np.int32), start, np.array([True, True, False]),
    )  # fmt: skip


def costs(batch: int = 1) -> RoundCosts:
    rng = np.random.default_rng(7)
    return RoundCosts(
        1 + rng.random((batch, SLOTS + 1)), rng.random((batch, DRAFTERS)),
        np.array([0.25, 0.5, 0.0]), rng.random((batch, DRAFTERS)).astype(np.float32),
    )  # fmt: skip


def bandit(
    policy: str, reward: str | None, level: str, rows: int = 1, **settings
) -> tk.BanditState:
    return tk.BanditState.create(
        len(RULES), slots=SLOTS, policy=policy, reward=reward, level=level, seed=11, rows=rows,
        **settings,
    )  # fmt: skip


def assert_same(got: Rounds, expected: Rounds) -> None:
    for field in fields(Rounds):
        np.testing.assert_allclose(
            getattr(got, field.name), getattr(expected, field.name), rtol=1e-12, err_msg=field.name
        )


def fits(policy: str, level: str, reward: str) -> bool:
    try:
        check_policy(policy, level, reward)
    except ValueError:
        return False
    return True


CONFIGURATIONS = [
    (policy, reward, level)
    for policy in POLICIES
    for level, rewards in (
        ("sequence", ("blend", "simple", "throughput")),
        ("token", ("decision", "token_accept")),
    )
    for reward in rewards
    if fits(policy, level, reward)
]


@pytest.mark.parametrize(("policy", "reward", "level"), CONFIGURATIONS)
@pytest.mark.parametrize(("batch", "padded"), [(1, False), (3, False), (3, True)])
@pytest.mark.sliced(5)
def test_every_round_is_that_of_the_operators(policy, reward, level, batch, padded):
    settings = {"arm": 6} if policy == "fixed" else {"discount": 0.97}
    rules, own, other = tk.StopRules(*RULES), *(
        bandit(policy, reward, level, batch, **settings) for _ in range(2)
    )  # fmt: skip
    requests = np.array([2, 0, 4, 1, 3, 0, 2], dtype=np.int64)
    drafts, prices = table(), replace(costs(batch), padded=padded)
    got = replay(drafts, rules, own, prices, TURNS, requests, batch)
    slow = SlowReplay(drafts, rules, other, prices, TURNS, batch)
    expected = slow.run(requests)
    assert_same(got, expected)
    assert got.emitted.sum() == np.diff(drafts.start)[requests].sum()
    assert own.calls.item() == len(got.cost)
    for name, tensor in own.state_dict().items():
        if isinstance(tensor, torch.Tensor) and name not in ("cost_ratio", "arm_prob"):
            torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("policy", ["hedge", "normalhedge"])
@pytest.mark.parametrize("batch", [1, 3])
def test_hedges_over_drafters(policy, batch):
    """They learn of the text; the rounds move what their stop rules remember."""
    rules = tk.StopRules(*[("adaedl", {"initial_threshold": 0.7})] * DRAFTERS)
    turns = np.array([[2], [0], [1]], np.int32)
    own, other = (
        tk.BanditState.create(DRAFTERS, slots=SLOTS, policy=policy, rows=batch, discount=0.97)
        for _ in range(2)
    )
    requests = np.array([2, 0, 4, 1, 3, 0, 2], dtype=np.int64)
    drafts, prices, horizon = table(), costs(batch), 3
    got = replay(drafts, rules, own, prices, turns, requests, batch, horizon)
    slow = SlowReplay(drafts, rules, other, prices, turns, batch, horizon)
    assert_same(got, slow.run(requests))
    assert set(got.arm) == {0, 1, 2}
    for name in ("count", "reward_sum", "reward_sq", "tokens", "cost"):
        torch.testing.assert_close(getattr(own, name), getattr(other, name), rtol=1e-12, atol=1e-12)
    assert own.count.sum() > 0


@pytest.mark.parametrize(("wrong", "message"), [
    ({"policy": "exp3"}, "horizon must be None with exp3, got 2"),
    ({"horizon": SLOTS + 1}, rf"horizon must be in \[1, {SLOTS}\], got {SLOTS + 1}"),
    ({"turns": [[0], [1], [0]]}, "drafters must be one an arm, each another"),
    ({"turns": [[0, 1], [1, 2], [2, 0]]}, "drafters must be one an arm, each another"),
])  # fmt: skip
def test_what_hedges_over_drafters_cannot_be(wrong, message):
    rules = tk.StopRules(*["svip"] * DRAFTERS)
    own = tk.BanditState.create(DRAFTERS, slots=SLOTS, policy=wrong.get("policy", "hedge"), rows=1)
    turns = np.array(wrong.get("turns", [[0], [1], [2]]), np.int32)
    with pytest.raises(ValueError, match=message):
        replay(table(), rules, own, costs(), turns, horizon=wrong.get("horizon", 2))


def test_a_bandit_goes_on_where_it_was():
    """Two replays in a row are one of both streams."""
    rules, drafts = tk.StopRules(*RULES), table()
    whole, parts = (bandit("thompson_gaussian", "blend", "sequence") for _ in range(2))
    at_once = replay(drafts, rules, whole, costs(), TURNS, np.array([0, 2, 3]))
    first = replay(drafts, rules, parts, costs(), TURNS, np.array([0, 2]))
    second = replay(drafts, rules, parts, costs(), TURNS, np.array([3]))
    assert [*first.arm, *second.arm] == at_once.arm.tolist()
    np.testing.assert_allclose([*first.cost, *second.cost], at_once.cost)


def test_stop_rules_forget_between_requests():
    """adaedl's threshold is the request's own: one request says the same alone and after others."""
    rules, drafts = tk.StopRules(("adaedl", {"initial_threshold": 0.3})), table()
    turns = np.zeros((1, 1), np.int32)

    def drafted(requests: list[int]) -> list[int]:
        fixed = tk.BanditState.create(1, slots=SLOTS, policy="fixed")
        rounds = replay(drafts, rules, fixed, costs(), turns, np.array(requests))
        left = np.diff(drafts.start)[requests[-1]]
        last = np.cumsum(rounds.emitted[::-1])[::-1] <= left
        return rounds.drafted[last].tolist()

    alone = drafted([2])
    assert drafted([4] * 40 + [2]) == alone
    one = np.concatenate([np.arange(*drafts.start[r : r + 2]) for r in [4] * 40 + [2]])
    as_one = DraftTable(
        drafts.stats[one], drafts.offered[one], drafts.accepted[one], drafts.budget[one],
        np.array([0, len(one)]), drafts.always,
    )  # fmt: skip
    fixed = tk.BanditState.create(1, slots=SLOTS, policy="fixed")
    rounds = replay(as_one, rules, fixed, costs(), turns)
    assert rounds.drafted[-len(alone) :].tolist() != alone, "the threshold moved on"


def test_the_oracle_is_the_best_of_every_path():
    drafts = table(3, (60, 40))
    # So cheap that a longer draft than is accepted can pay where its verification costs less.
    prices = replace(costs(), draft=costs().draft * [0.02, 0.02, 0.0])
    plan = oracle(drafts, prices)

    @functools.cache
    def best(p: int, end: int) -> float:
        if p >= end:
            return 0.0
        return min(
            prices.verify[0, n] + n * prices.draft[0, d]
            + best(p + min(n, int(drafts.accepted[p, d])) + 1, end)
            for d in range(DRAFTERS)
            for n in range(min(int(drafts.offered[p, d]), int(drafts.budget[p])) + 1)
        )  # fmt: skip

    for first, end in itertools.pairwise(drafts.start):
        for p in range(first, end):
            assert plan.cost[p] == pytest.approx(best(p, end), rel=1e-12)
            n, d = int(plan.drafted[p]), int(plan.drafter[p])
            after = p + min(n, int(drafts.accepted[p, d])) + 1
            rest = plan.cost[after] if after < end else 0.0
            own = prices.verify[0, n] + n * prices.draft[0, d] + rest
            assert own == pytest.approx(plan.cost[p], rel=1e-12)


@pytest.mark.parametrize("policy", ["ucb1", "fixed", "epsilon_greedy"])
def test_no_policy_beats_the_oracle(policy):
    drafts, prices = table(5), replace(costs(), catch_up=np.zeros(DRAFTERS))
    rounds = replay(
        drafts, tk.StopRules(*RULES), bandit(policy, "blend", "sequence"), prices, TURNS
    )
    assert oracle(drafts, prices).cost[drafts.start[:-1]].sum() <= rounds.cost.sum()


def changed(**arrays) -> DraftTable:
    return replace(table(), **arrays)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"budget": np.zeros(3, np.int32)}, ValueError, r"budget must be \[91\], got \[3\]"),
        ({"budget": np.zeros(91)}, TypeError, "replay: budget must be int32, got float64"),
        ({"accepted": np.full((91, 3), 6, np.int32)}, ValueError, "must be at most 5, got 6"),
        ({"offered": np.zeros((91, 3), np.int32)}, ValueError, "accepted must not exceed offered"),
        ({"start": np.array([0, 90])}, ValueError, "start must rise from 0 to 91"),
        ({"start": np.array([0, 50, 40, 91])}, ValueError, "start must rise from 0 to 91"),
        ({"stats": np.zeros((91, 3, 5), np.float32)}, ValueError, r"stats must be \[P, D, K, 8\]"),
        ({"always": [True] * 3}, TypeError, "always must be a NumPy array, got list"),
    ],
)  # fmt: skip
def test_wrong_tables_are_refused(arrays, error, message):
    with pytest.raises(error, match=message):
        changed(**arrays)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 2}, r"batch must be in \[1, 1\], the rows of verify_cost, got 2"),
        ({"batch": 0}, "got 0"),
        ({"requests": np.array([5])}, "requests must be at most 4, got 5"),
        ({"drafters": np.full((len(RULES), 1), 3, np.int32)}, "drafters must be at most 2, got 3"),
        ({"drafters": np.zeros((2, 1), np.int32)}, r"drafters must be \[\d+, 1\], got \[2, 1\]"),
        ({"bandit": tk.BanditState.create(3, slots=SLOTS)}, r"bandit must have \d+ arms, got 3"),
        ({"bandit": tk.BanditState.create(len(RULES), slots=2)}, "bandit must have 5 slots, got 2"),
        ({"bandit": tk.BanditState.create(len(RULES), 2, SLOTS)}, "must have 1 groups, got 2"),
        (
            {"bandit": tk.BanditState.create(len(RULES), slots=SLOTS, reward="overlap")},
            "reward must be one that lengths decide, got 'overlap'",
        ),
        (
            {"costs": RoundCosts(np.ones((1, 4)), np.ones((1, 3)), np.ones(3),
                                 np.ones((1, 3), np.float32))},
            r"verify_cost must be \[1, 6\], got \[1, 4\]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_teaches_nothing(arguments, message):
    state = bandit("ucb1", "blend", "sequence")
    given = {
        "table": table(), "rules": tk.StopRules(*RULES), "bandit": state, "costs": costs(),
        "drafters": TURNS, **arguments,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        replay(**given)
    assert state.calls.item() == 0


def test_without_the_host_library_nothing_is_replayed(monkeypatch):
    monkeypatch.setattr(tapout_kernels.replay, "_host", None)
    state = bandit("ucb1", "blend", "sequence")
    with pytest.raises(tk.BackendUnavailable, match="replay: the host library was not built"):
        replay(table(), tk.StopRules(*RULES), state, costs(), TURNS)
    with pytest.raises(tk.BackendUnavailable, match="oracle: the host library"):
        oracle(table(), costs())
