"""Bandits and ``proposal_reset`` where no other test looks: batches that run over the blocks of a
GPU's kernels, any number of arms, ties, tables that are no numbers."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import naive_bandit, raw

from tapout_kernels import BanditState
from tapout_kernels.testing import TOLERANCES, Case

OPS = ("proposal_reset", "bandit_select", "bandit_update", "bandit_step")


def equal_to_the_reference(
    backend: str, op: str, args: dict[str, object], context: str = ""
) -> None:
    found = raw.run(raw.caller(backend), op, args)
    for name, expected in raw.run(raw.reference, op, args).items():
        key = name if name in ("memory", "arm_prob") else "bandit"
        atol, rtol = TOLERANCES[key] if expected.is_floating_point() else (0, 0)
        torch.testing.assert_close(
            found[name], expected, atol=atol, rtol=rtol, equal_nan=True,
            msg=lambda m, name=name: f"{op} {context} {name}: {m}",
        )  # fmt: skip


# ---- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("batch", [64, 129])
@pytest.mark.sliced(3)
def test_batches_around_a_block_of_rows(compiled, op, batch):
    for level in ("sequence", "token"):
        bandit = "ucb1_token" if level == "token" else "ucb_tuned"
        case = Case(op, batch=batch, slots=2, level=level, bandit=bandit, seed=batch)
        equal_to_the_reference(compiled, op, case.inputs(), case.name)


@pytest.mark.parametrize(
    ("op", "batch"),
    [("bandit_select", 260), ("bandit_update", 260), ("proposal_reset", 64 * 64 + 1)],
)
@pytest.mark.sliced(3)
def test_more_than_two_blocks_of_rows(compiled, op, batch):
    equal_to_the_reference(compiled, op, Case(op, batch=batch, slots=1).inputs())


def tables(policy: str, arms: int, groups: int, batch: int, seed: int) -> dict[str, object]:
    """A selection over any number of arms, some of them untried."""
    generator = torch.Generator().manual_seed(seed)
    state = BanditState.create(arms, groups, policy=policy, seed=seed, rows=batch)
    count = torch.randint(0, 5, (groups, arms), generator=generator).double()
    share = torch.rand(groups, arms, generator=generator, dtype=torch.float64)
    group = torch.randint(0, groups, (batch,), generator=generator).int()
    return {
        "count": count, "reward_sum": count * share, "reward_sq": count * share * share,
        "tokens": count * 2, "cost": count * 1.5, "params": state.params, "seed": state.seed,
        "group": group, "live": None, "rows": None, "policy": naive_bandit.POLICIES[policy],
        "reward": 0, "slots": 1, "calls": state.calls + 3,
        "arm_prob": state.arm_prob if len(state.arm_prob) else None,
        "arm": torch.full((batch,), -1, dtype=torch.int32),
    }  # fmt: skip


@pytest.mark.parametrize(("arms", "batch"), [(1, 9), (2, 70), (5, 70), (33, 20), (300, 1)])
@pytest.mark.parametrize(
    "policy",
    [
        "ucb1",
        "ucb_tuned",
        "thompson_beta",
        "epsilon_greedy",
        "ucbspec",
        "exp3",
        "hedge",
        "normalhedge",
    ],
)
@pytest.mark.sliced(5)
def test_any_number_of_arms(compiled, policy, arms, batch):
    for groups in (1, 3):
        args = tables(policy, arms, groups, batch, seed=arms)
        equal_to_the_reference(compiled, "bandit_select", args, f"{policy} {groups} {batch}")


def test_more_scores_than_shared_memory_holds(compiled):
    """Of one group; 2048 fit."""
    equal_to_the_reference(compiled, "bandit_select", tables("ucb1", 64, 1, 33, seed=0))


# ---- the merge is the serial definition ----------------------------------------------------------


def selected(backend: str, counts, sums, exploration: float, batch: int) -> list[int]:
    args = tables("ucb1", len(counts), 1, batch, seed=0)
    args["count"] = torch.tensor([counts], dtype=torch.float64)
    args["reward_sum"] = torch.tensor([sums], dtype=torch.float64)
    args["params"][1] = exploration
    found = raw.run(raw.caller(backend), "bandit_select", args)["arm"]
    assert found.equal(raw.run(raw.reference, "bandit_select", args)["arm"])
    return found.tolist()


def test_untried_arms_come_first_lowest_first(compiled):
    assert selected(compiled, [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], 1.0, 2) == [0, 2]


def test_equal_arms_take_turns(compiled):
    """Equal tables: each pull lowers the score of one below the others'."""
    assert selected(compiled, [1.0] * 4, [0.5] * 4, 1.0, 10) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_scores_that_do_not_fall_stay_with_the_lowest_arm(compiled):
    """Exploration 0: all of an arm's pulls are equal, and equal to another arm's."""
    assert selected(compiled, [1.0, 2.0, 4.0], [0.0, 1.0, 2.0], 0.0, 9) == [1] * 9
    assert selected(compiled, [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], 0.0, 6) == [0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_a_negative_exploration_is_the_serial_definition_too(compiled, seed):
    """``create`` refuses it; the vector of parameters may still say it."""
    for groups, batch in ((1, 40), (3, 11)):
        args = tables("ucb1", 6, groups, batch, seed)
        args["params"][1] = -0.7
        found = raw.run(raw.caller(compiled), "bandit_select", args)["arm"]
        assert found.equal(naive_bandit.select(args))


@pytest.mark.parametrize(
    "policy",
    ["ucb1", "ucb_tuned", "ucbspec", "exp3", "normalhedge", "thompson_gaussian", "thompson_beta"],
)
def test_tables_that_are_no_numbers_still_choose_an_arm(compiled, policy):
    """And never one that scratch memory happened to hold."""
    args = tables(policy, 6, 1, 40, seed=1)
    args["reward_sum"][0, 2] = math.nan
    args["reward_sq"][0] = math.nan
    found = raw.run(raw.caller(compiled), "bandit_select", args)["arm"]
    assert ((found >= 0) & (found < 6)).all()


def test_calls_advance_once_whatever_the_number_of_programs(compiled):
    for bandit in ("ucb1_token", "gaussian_token", "exp3_token", "fixed"):
        for op in ("bandit_select", "bandit_step"):
            args = Case(op, slots=4, bandit=bandit).inputs()
            assert raw.run(raw.caller(compiled), op, args)["calls"].equal(args["calls"] + 1)


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["bandit_select", "bandit_update", "bandit_step"])
@pytest.mark.parametrize(("bandit", "reward"), [("ucb1", 3), ("ucb1_token", 0)])
def test_a_reward_of_the_other_level_is_refused(compiled, op, bandit, reward):
    args = {**Case(op, bandit=bandit).inputs(), "reward": reward}
    before = raw.clone(args)
    with pytest.raises(RuntimeError, match=f"{op}: reward must be .*level, got {reward}"):
        raw.caller(compiled)(op, **args)
    for name in (name for name in raw.written(op) if args[name] is not None):
        assert raw.equal_bits(args[name], before[name])


@pytest.mark.parametrize("size", ["arm", "slot"])
def test_raw_bandits_refuse_tables_of_nothing(library, size):
    """At token level: [G, A, K], and arms of [R, K]."""
    args = Case("bandit_select", bandit="ucb1_token", level="token").inputs()
    shape = (1, 0, 3) if size == "arm" else (1, 2, 0)
    args |= {name: torch.zeros(shape, dtype=torch.float64)
             for name in ("count", "reward_sum", "reward_sq")}  # fmt: skip
    args |= {name: torch.zeros(shape[:2], dtype=torch.float64) for name in ("tokens", "cost")}
    args["arm"] = torch.zeros(len(args["arm"]), shape[2], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=f"bandit_select: count must be of at least one {size}"):
        raw.caller(library)("bandit_select", **args)
