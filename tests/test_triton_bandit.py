"""Triton's bandit and ``proposal_reset`` where no other test looks: blocks that run over, ties,
scratch memory, arms written where they are read."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from helpers import naive_bandit, raw

from tapout_kernels import BanditState
from tapout_kernels.testing import TOLERANCES, Case

OPS = ("proposal_reset", "bandit_select", "bandit_update", "bandit_step")
triton = raw.caller("triton")


def equal_to_the_reference(op: str, args: dict[str, object], context: str = "") -> None:
    found = raw.run(triton, op, args)
    for name, expected in raw.run(raw.reference, op, args).items():
        key = "memory" if name == "memory" else "bandit"
        atol, rtol = TOLERANCES[key] if expected.is_floating_point() else (0, 0)
        torch.testing.assert_close(
            found[name], expected, atol=atol, rtol=rtol, equal_nan=True,
            msg=lambda m, name=name: f"{op} {context} {name}: {m}",
        )  # fmt: skip


# ---- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("batch", [64, 129])
def test_batches_around_a_block_of_rows(op, batch):
    for level in ("sequence", "token"):
        bandit = "ucb1_token" if level == "token" else "ucb_tuned"
        case = Case(op, batch=batch, slots=2, level=level, bandit=bandit, seed=batch)
        equal_to_the_reference(op, case.inputs(), case.name)


@pytest.mark.parametrize(
    ("op", "batch"),
    [("bandit_select", 260), ("bandit_update", 260), ("proposal_reset", 64 * 64 + 1)],
)
def test_more_than_two_blocks_of_rows(op, batch):
    equal_to_the_reference(op, Case(op, batch=batch, slots=1).inputs())


def tables(policy: str, arms: int, groups: int, batch: int, seed: int) -> dict[str, object]:
    """A selection over any number of arms, some of them untried."""
    generator = torch.Generator().manual_seed(seed)
    state = BanditState.create(arms, groups, policy=policy, seed=seed)
    count = torch.randint(0, 5, (groups, arms), generator=generator).double()
    share = torch.rand(groups, arms, generator=generator, dtype=torch.float64)
    group = torch.randint(0, groups, (batch,), generator=generator).int()
    return {
        "count": count, "reward_sum": count * share, "reward_sq": count * share * share,
        "tokens": count * 2, "cost": count * 1.5, "params": state.params, "seed": state.seed,
        "group": group, "live": None, "rows": None, "policy": naive_bandit.POLICIES[policy],
        "reward": 0, "slots": 1, "calls": state.calls + 3,
        "arm": torch.full((batch,), -1, dtype=torch.int32),
    }  # fmt: skip


@pytest.mark.parametrize(("arms", "batch"), [(1, 9), (2, 70), (5, 70), (33, 20), (300, 1)])
@pytest.mark.parametrize("policy", ["ucb1", "ucb_tuned", "thompson_beta", "epsilon_greedy"])
def test_any_number_of_arms(policy, arms, batch):
    for groups in (1, 3):
        args = tables(policy, arms, groups, batch, seed=arms)
        equal_to_the_reference("bandit_select", args, f"{policy} {groups} {batch}")


def test_more_arms_than_a_block_of_pairs(monkeypatch):
    """Every entry of a merge is then compared alone."""
    bandit_select = importlib.import_module("tapout_kernels._triton.bandit_select")
    args = tables("ucb1", 40, 1, 5, seed=0)
    monkeypatch.setattr(bandit_select, "TILE", 32)
    monkeypatch.setattr(bandit_select, "DRAWS", 32)
    for policy in ("ucb1", "thompson_gaussian"):
        args["policy"] = naive_bandit.POLICIES[policy]
        equal_to_the_reference("bandit_select", args, policy)


# ---- the merge is the serial definition ----------------------------------------------------------


def selected(counts, sums, exploration: float, batch: int) -> list[int]:
    args = tables("ucb1", len(counts), 1, batch, seed=0)
    args["count"] = torch.tensor([counts], dtype=torch.float64)
    args["reward_sum"] = torch.tensor([sums], dtype=torch.float64)
    args["params"][1] = exploration
    found = raw.run(triton, "bandit_select", args)["arm"]
    assert found.equal(raw.run(raw.reference, "bandit_select", args)["arm"])
    return found.tolist()


def test_untried_arms_come_first_lowest_first():
    assert selected([0.0, 2.0, 0.0], [0.0, 2.0, 0.0], 1.0, 2) == [0, 2]


def test_equal_arms_take_turns():
    """Equal tables: each pull lowers the score of one below the others'."""
    assert selected([1.0] * 4, [0.5] * 4, 1.0, 10) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_scores_that_do_not_fall_stay_with_the_lowest_arm():
    """Exploration 0: all of an arm's pulls are equal, and equal to another arm's."""
    assert selected([1.0, 2.0, 4.0], [0.0, 1.0, 2.0], 0.0, 9) == [1] * 9
    assert selected([0.0, 1.0, 0.0], [0.0, 0.0, 0.0], 0.0, 6) == [0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_a_negative_exploration_is_the_serial_definition_too(seed):
    """``create`` refuses it; the vector of parameters may still say it."""
    for groups, batch in ((1, 40), (3, 11)):
        args = tables("ucb1", 6, groups, batch, seed)
        args["params"][1] = -0.7
        found = raw.run(triton, "bandit_select", args)["arm"]
        assert found.equal(naive_bandit.select(args))


@pytest.mark.parametrize("policy", ["ucb1", "ucb_tuned", "thompson_gaussian", "thompson_beta"])
def test_tables_that_are_no_numbers_still_choose_an_arm(policy):
    """And never one that scratch memory happened to hold."""
    args = tables(policy, 6, 1, 40, seed=1)
    args["reward_sum"][0, 2] = math.nan
    args["reward_sq"][0] = math.nan
    raw.run(triton, "bandit_select", args)
    spoil_scratch()
    found = raw.run(triton, "bandit_select", args)["arm"]
    assert ((found >= 0) & (found < 6)).all()


# ---- scratch memory -----------------------------------------------------------------------------


def spoil_scratch() -> None:
    from tapout_kernels._triton import launch

    for arena in launch._arenas.values():
        assert not arena.tickets.any(), "a ticket is not back at 0"
        arena.bytes.fill_(0xFF)


@pytest.mark.parametrize("op", OPS)
def test_what_scratch_memory_held_before_does_not_matter(op):
    for bandit in ("ucb1", "ucb_tuned_token", "beta"):
        case = Case(op, batch=70, slots=2, bandit=bandit)
        args = case.inputs()
        expected = raw.run(triton, op, args)
        spoil_scratch()
        raw.same(raw.run(triton, op, args), expected, case.name)


def test_calls_advance_once_whatever_the_number_of_programs():
    for bandit in ("ucb1_token", "gaussian_token", "fixed"):
        for op in ("bandit_select", "bandit_step"):
            args = Case(op, slots=4, bandit=bandit).inputs()
            assert raw.run(triton, op, args)["calls"].equal(args["calls"] + 1)


# ---- the order of programs ----------------------------------------------------------------------


@pytest.fixture
def last_program_first(monkeypatch):
    """The interpreter runs programs in order; a GPU does not."""
    from triton.runtime.interpreter import interpreter_builder as builder

    original = builder.set_grid_idx
    monkeypatch.setattr(
        builder, "set_grid_idx", lambda x, y, z: original(builder.grid_dim[0] - 1 - x, y, z)
    )


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bandit", ["ucb1_token", "epsilon"])
def test_the_order_of_programs_does_not_matter(op, bandit, request):
    """Among others: at token level the round is learnt from arms that other programs replace."""
    level = "token" if bandit.endswith("token") else "sequence"
    args = Case(op, batch=70, slots=3, bandit=bandit, level=level, seed=5).inputs()
    if op == "bandit_step":
        args["arm"].clamp_(0, args["count"].shape[1] - 1)
    expected = run_in_place(op, args)
    request.getfixturevalue("last_program_first")
    raw.same(run_in_place(op, args), expected, f"{op} {bandit}")


def run_in_place(op: str, args: dict[str, object]) -> dict[str, torch.Tensor]:
    own = raw.clone(args)
    if op == "bandit_step":
        own["next_arm"] = own["arm"]
    triton(op, **own)
    return {name: own[name] for name in raw.written(op)}


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["bandit_select", "bandit_update", "bandit_step"])
@pytest.mark.parametrize(("bandit", "reward"), [("ucb1", 3), ("ucb1_token", 0)])
def test_a_reward_of_the_other_level_is_refused(op, bandit, reward):
    args = {**Case(op, bandit=bandit).inputs(), "reward": reward}
    before = raw.clone(args)
    with pytest.raises(RuntimeError, match=f"{op}: reward must be .*level, got {reward}"):
        triton(op, **args)
    for name in raw.written(op):
        assert raw.equal_bits(args[name], before[name])
