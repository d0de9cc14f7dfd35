"""BanditState: what it takes, forgets, saves and loads."""

from __future__ import annotations

import io
import re

import pytest
import torch
from helpers import raw
from helpers.rounds import select, update_arguments

from tapout_kernels import BanditState
from tapout_kernels.testing import Case

TABLES = ("count", "reward_sum", "reward_sq", "tokens", "cost")


# ---- create --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "params"),
    [  # alpha, the policy's parameter, discount
        ({}, [0.5, 1.0, 1.0]),
        ({"exploration": 2, "alpha": 0.25, "discount": 0.5}, [0.25, 2.0, 0.5]),
        ({"reward": "throughput"}, [0.0, 0.1, 1.0]),
        ({"policy": "thompson_gaussian", "reward": "throughput"}, [0.0, 0.05, 1.0]),
        ({"reward": "simple"}, [0.0, 1.0, 1.0]),
        ({"policy": "ucb_tuned"}, [0.5, 0.0, 1.0]),
        ({"policy": "thompson_gaussian"}, [0.5, 0.5, 1.0]),
        ({"policy": "thompson_gaussian", "sigma": 0.0}, [0.5, 0.0, 1.0]),
        ({"policy": "thompson_beta", "level": "token"}, [0.0, 0.0, 1.0]),
        ({"policy": "epsilon_greedy"}, [0.5, 0.1, 1.0]),
        ({"policy": "fixed", "arm": 2}, [0.5, 2.0, 1.0]),
        ({"policy": "ucbspec"}, [0.0, 0.1, 1.0]),
        ({"policy": "ucbspec", "reward": "simple", "delta": 0.5}, [0.0, 0.5, 1.0]),
        ({"reward": "overlap"}, [0.0, 1.0, 1.0]),
        ({"policy": "metasd", "exploration": 0.5}, [0.0, 0.5, 1.0]),
        ({"policy": "exp3", "rows": 2}, [0.5, 0.0, 1.0]),
        ({"policy": "exp3", "rows": 2, "epsilon": 0.5, "alpha": 1}, [1.0, 0.5, 1.0]),
        ({"policy": "exp3spec", "rows": 2}, [0.0, 0.0, 1.0]),
        ({"policy": "hedge", "rows": 2}, [0.5, 0.0, 1.0]),
        ({"policy": "normalhedge", "reward": "simple", "rows": 2}, [0.0, 0.1, 1.0]),
    ],
)
def test_parameters_and_their_defaults(given, params):
    bandit = BanditState.create(3, **given)
    assert bandit.params.tolist() == params + [0.0] * 5


def test_levels_have_their_own_shapes_and_default_rewards():
    sequence, token = (BanditState.create(3, 2, 4, level) for level in ("sequence", "token"))
    assert (sequence.reward, token.reward) == ("blend", "decision")
    assert all(getattr(sequence, name).shape == (2, 3) for name in TABLES)
    assert all(getattr(token, name).shape == (2, 3, 4) for name in TABLES[:3])
    assert all(getattr(token, name).shape == (2, 3) for name in TABLES[3:])
    assert all(getattr(token, name).dtype == torch.float64 for name in TABLES)
    assert select(token, batch=5).shape == (5, 4)


WRONG = {
    "policy must be one of fixed, ucb1, ucb_tuned": {"policy": "ucb2"},
    "level must be one of sequence, token, got 'tree'": {"level": "tree"},
    "reward at level sequence must be one of blend, simple, throughput, overlap, got 'decision'": {
        "reward": "decision"
    },
    "reward at level token must be one of decision, token_accept, got 'blend'": {
        "level": "token", "reward": "blend"
    },
    "reward must be blend, simple or overlap with ucb_tuned, got 'throughput'": {
        "policy": "ucb_tuned", "reward": "throughput"
    },
    "reward must be simple with ucbspec, got 'blend'": {
        "policy": "ucbspec", "reward": "blend"
    },
    "reward must be overlap with metasd, got 'simple'": {"policy": "metasd", "reward": "simple"},
    "level must be sequence with ucbspec, got 'token'": {"policy": "ucbspec", "level": "token"},
    "reward must be blend, simple or overlap with exp3, got 'throughput'": {
        "policy": "exp3", "reward": "throughput", "rows": 1
    },
    "reward must be simple with exp3spec, got 'blend'": {
        "policy": "exp3spec", "reward": "blend", "rows": 1
    },
    "rows must be >= 1 with exp3, got 0": {"policy": "exp3"},
    "reward must be blend, simple or overlap with hedge, got 'throughput'": {
        "policy": "hedge", "reward": "throughput", "rows": 1
    },
    "level must be sequence with normalhedge, got 'token'": {
        "policy": "normalhedge", "level": "token", "rows": 1
    },
    "epsilon must be in [0, 1), got 1": {"policy": "normalhedge", "rows": 1, "epsilon": 1},
    "exp3spec with simple takes discount, got epsilon": {
        "policy": "exp3spec", "rows": 1, "epsilon": 0.1
    },
    "delta must be in (0, 1), got 1": {"policy": "ucbspec", "delta": 1},
    "discount must be in (0, 1], got 0": {"discount": 0},
    "discount must be in (0, 1], got 1.5": {"discount": 1.5},
    "discount must be in (0, 1], got nan": {"discount": float("nan")},
    "alpha must be in [0, 1], got -0.1": {"alpha": -0.1},
    "epsilon must be in [0, 1], got 2": {"policy": "epsilon_greedy", "epsilon": 2},
    "exploration must be a number >= 0, got -1": {"exploration": -1},
    "sigma must be a number >= 0, got inf": {"policy": "thompson_gaussian", "sigma": float("inf")},
    "ucb1 with simple takes exploration, discount, got alpha": {"reward": "simple", "alpha": 0.5},
    "ucb_tuned with blend takes alpha, discount, got exploration": {
        "policy": "ucb_tuned", "exploration": 1.0
    },
    "arms, groups, slots must be >= 1, got 3, 0, 1": {"groups": 0},
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_settings_that_make_no_sense_are_refused(message):
    with pytest.raises(ValueError, match=re.escape(f"BanditState: {message}")):
        BanditState.create(3, **WRONG[message])


def test_select_needs_out_with_rows_and_one_batch():
    bandit, rows = BanditState.create(2), torch.zeros(3, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"bandit_select: out must be given with rows, got None"):
        select(bandit, rows=rows)
    with pytest.raises(ValueError, match=r"bandit_select: batch must be \[3\], got \[2\]"):
        select(bandit, group=rows, batch=2)
    assert bandit.calls.item() == 0


@pytest.mark.parametrize(
    ("op", "bandit", "name", "values"),
    [
        ("bandit_select", "ucb1", "policy", [-1, 10, 1 << 40]),
        ("bandit_select", "ucb1", "slots", [0, -1]),
        ("bandit_select", "ucb1", "reward", [-1, 3, 4, 6]),  # 3 and 4: those of the token level
        ("bandit_update", "ucb1", "reward", [-1, 3, 4, 6]),
        ("bandit_select", "ucb1_token", "reward", [-1, 0, 1, 2, 5, 1 << 40]),
        ("bandit_update", "ucb1_token", "reward", [-1, 0, 1, 2, 5, 1 << 40]),
    ],
)
def test_raw_operators_refuse_numbers_they_have_no_meaning_for(native, op, bandit, name, values):
    for value in values:
        args = {**Case(op, bandit=bandit).inputs(), name: value}
        before = raw.clone(args)
        with pytest.raises(RuntimeError, match=rf"{op}: {name} must be .*, got {value}"):
            raw.caller(native)(op, **args)
        raw.same({n: args[n] for n in raw.written(op) if args[n] is not None}, before)


# ---- reset, save, load ---------------------------------------------------------------------------


def played(rounds: int = 5, **settings) -> BanditState:
    """A bandit that has seen some rounds of two groups."""
    bandit = BanditState.create(3, groups=2, slots=2, **settings)
    bandit.cost_ratio.fill_(0.25)
    play(bandit, rounds)
    return bandit


def play(bandit: BanditState, rounds: int) -> list[list]:
    group, arms = torch.tensor([0, 1, 1], dtype=torch.int32), []
    for _ in range(rounds):
        arm = select(bandit, group=group)
        arms.append(arm.tolist())
        update = update_arguments(bandit, arm, [1, 0, 2], [2, 1, 2], slots=2)
        update.group = group
        update.run(None)
    return arms


SETTINGS = [
    {"policy": "ucb1", "discount": 0.9}, {"policy": "thompson_beta", "level": "token", "seed": 5},
    {"policy": "epsilon_greedy", "reward": "throughput", "epsilon": 0.5},
    {"policy": "exp3", "rows": 3, "seed": 7},
]  # fmt: skip


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_reset_forgets_the_groups_it_is_told_to(level):
    bandit = played(level=level)
    kept = {name: getattr(bandit, name).clone() for name in TABLES}
    storage = {name: getattr(bandit, name).data_ptr() for name in TABLES}
    assert kept["count"][0].any(), "there is something to forget"
    bandit.reset(torch.tensor([True, False]))
    for name in TABLES:
        assert not getattr(bandit, name)[0].any()
        assert getattr(bandit, name)[1].equal(kept[name][1])
    bandit.reset()
    assert all(not getattr(bandit, name).any() for name in TABLES)
    assert storage == {name: getattr(bandit, name).data_ptr() for name in TABLES}, "in place"
    assert bandit.calls.item() == 5, "noise never repeats"
    assert bandit.cost_ratio.item() == 0.25


def test_reset_reads_no_tensor_on_the_host():
    bandit = BanditState.create(2, groups=2, device="meta")  # a meta tensor has nothing to read
    bandit.reset(torch.ones(2, dtype=torch.bool, device="meta"))
    bandit.reset()


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([True, False], TypeError, "groups must be a Tensor, got list"),
        (torch.ones(2), TypeError, "groups must be bool, got float32"),
        (torch.ones(3, dtype=torch.bool), ValueError, "groups must be [2], got [3]"),
        (torch.ones(2, dtype=torch.bool, device="meta"), ValueError, "groups must be on cpu"),
    ],
)
def test_wrong_masks_are_refused(groups, error, message):
    bandit = played()
    before = bandit.state_dict()
    with pytest.raises(error, match=re.escape(f"BanditState.reset: {message}")):
        bandit.reset(groups)
    assert_state(bandit, before)


def assert_state(bandit: BanditState, expected: dict) -> None:
    for name, value in bandit.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert raw.equal_bits(value, expected[name]), name
        else:
            assert value == expected[name], name


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_loaded_bandit_goes_on_as_the_saved_one(settings):
    old = played(**settings)
    file = io.BytesIO()
    torch.save(old.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    new = BanditState.create(3, groups=2, slots=2, **{**settings, "seed": 99})
    storage = new.count.data_ptr()
    new.load_state_dict(state)
    assert new.count.data_ptr() == storage, "in place"
    assert_state(new, state)
    assert play(new, 8) == play(old, 8)
    assert_state(new, old.state_dict())


def test_a_snapshot_is_a_copy():
    bandit = played()
    state = bandit.state_dict()
    count = state["count"].clone()
    play(bandit, 3)
    assert state["count"].equal(count)
    assert not bandit.count.equal(count)
    bandit.load_state_dict(state)
    play(bandit, 3)
    assert state["count"].equal(count)


def spoiled() -> dict[str, tuple[type[Exception], str, object]]:
    good = played().state_dict()
    without = {name: value for name, value in good.items() if name != "cost"}
    return {
        "no dict": (TypeError, "state must be a dict, got list", [1]),
        "empty": (ValueError, "state must have arm_prob, calls, ", {}),
        "an entry missing": (ValueError, "state must have arm_prob, calls, ", without),
        "an entry too many": (ValueError, "state must have arm_prob, calls, ", {**good, "x": 1}),
        "policy": (ValueError, "policy must be 'ucb1', got 'fixed'", {**good, "policy": "fixed"}),
        "reward": (ValueError, "reward must be 'blend', got", {**good, "reward": "simple"}),
        "level": (ValueError, "level must be 'sequence', got", {**good, "level": "token"}),
        "slots": (ValueError, "slots must be 2, got 3", {**good, "slots": 3}),
        "groups": (ValueError, "count must be [2, 3], got", {**good, "count": good["count"][:1]}),
        "dtype": (TypeError, "seed must be int64, got int32", {**good, "seed": good["seed"].int()}),
        "type": (TypeError, "cost must be a Tensor, got list", {**good, "cost": [[0.0] * 3] * 2}),
        "params": (ValueError, "params must be [8], got [7]",
                   {**good, "params": good["params"][:7]}),
    }  # fmt: skip


@pytest.mark.parametrize("what", spoiled())
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_written(what):
    error, message, state = spoiled()[what]
    bandit = BanditState.create(3, groups=2, slots=2)
    before = bandit.state_dict()
    with pytest.raises(error, match=re.escape(f"BanditState.load_state_dict: {message}")):
        bandit.load_state_dict(state)
    assert_state(bandit, before)
