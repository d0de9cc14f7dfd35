"""Bandits against plain loops, compiled ones against the reference, and what must not change."""

from __future__ import annotations

import pytest
import torch
from helpers import naive_bandit, raw
from helpers.device import few, interpreted_if

from tapout_kernels.testing import ARMS, BANDITS, TOLERANCES, Case

SEEDS = [interpreted_if(seed == 0, seed) for seed in range(4)]
INTERPRETED = ("ucb1", "gaussian_token")  # test_conformance has all of them
IN_A_STEP = (*INTERPRETED, "beta_token", "exp3", "hedge")
PENDING = [name for name, bandit in BANDITS.items() if bandit["policy"].startswith("ucb")]


def cases(op: str, seed: int, bandit: str, backend: str = "cpu"):
    for batch, slots in ((24, 4), (5, 3), (1, 1))[few(backend, 0, 1) :]:
        yield Case(op, batch=batch, slots=slots, bandit=bandit, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bandit", PENDING)
@pytest.mark.sliced(5)
def test_pending_pulls_equal_a_loop_that_scores_everything_afresh(backend, bandit, seed):
    for case in cases("bandit_select", seed, bandit):
        args = case.inputs()
        found = raw.run(raw.caller(backend), case.op, args)
        assert found["arm"].equal(naive_bandit.select(args)), case.name
        assert found["calls"].item() == args["calls"].item() + 1


@pytest.mark.parametrize("policy", ["ucb1", "ucb_tuned", "ucbspec"])
def test_a_large_batch_of_one_group_equals_the_loop(backend, policy):
    args = Case("bandit_select", batch=200, bandit=policy, seed=3).inputs()
    args.update(group=None, live=None, rows=None, arm=args["arm"][:200])
    found = raw.run(raw.caller(backend), "bandit_select", args)["arm"]
    assert found.equal(naive_bandit.select(args))
    assert len(found.unique()) > len(ARMS) // 2, "a batch explores"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bandit", BANDITS)
@pytest.mark.sliced(5)
def test_credit_and_discount_equal_a_loop(backend, bandit, seed):
    for case in cases("bandit_update", seed, bandit):
        args = case.inputs()
        found = raw.run(raw.caller(backend), case.op, args)
        for name, expected in naive_bandit.update(args).items():
            atol, rtol = TOLERANCES["bandit"]
            torch.testing.assert_close(found[name], expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bandit", [interpreted_if(b in INTERPRETED, b) for b in BANDITS])
@pytest.mark.sliced(5)
def test_compiled_backends_equal_the_reference(compiled, bandit, seed):
    for op in ("bandit_select", "bandit_update", "bandit_step"):
        for case in cases(op, seed, bandit):
            args = case.inputs()
            found = raw.run(raw.caller(compiled), op, args)
            for name, expected in raw.run(raw.reference, op, args).items():
                key = name if name in ("memory", "arm_prob") else "bandit"
                atol, rtol = TOLERANCES[key] if expected.is_floating_point() else (0, 0)
                torch.testing.assert_close(found[name], expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize("op", ["bandit_select", "bandit_update", "bandit_step"])
def test_every_bandit_has_inputs_of_its_own(op):
    """Else a comparison above would be made twice."""
    inputs = [Case(op, bandit=bandit).inputs() for bandit in BANDITS]
    shown = {str(args) for args in inputs}
    assert len(shown) == len(BANDITS)


def one_after_the_other(call: raw.Call, args: dict[str, object]) -> dict[str, torch.Tensor]:
    """``bandit_update``, then ``bandit_select`` into ``next_arm``; what ``bandit_step`` writes."""
    own = raw.clone(args)
    call("bandit_update", **{name: own[name] for name in raw.names("bandit_update")})
    select = {**own, "live": own["next_live"], "arm": own["next_arm"]}
    select["slots"] = own["draft_tokens"].shape[1]
    call("bandit_select", **{name: select[name] for name in raw.names("bandit_select")})
    return {name: own[name] for name in raw.written("bandit_step") if own[name] is not None}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bandit", [interpreted_if(b in IN_A_STEP, b) for b in BANDITS])
@pytest.mark.sliced(5)
def test_a_step_is_an_update_and_a_selection(backend, bandit, seed):
    for case in cases("bandit_step", seed, bandit, backend):
        args, call = case.inputs(), raw.caller(backend)
        expected = one_after_the_other(call, args)
        raw.same(raw.run(call, case.op, args), expected, case.name)
        own = raw.clone(args)
        own["next_arm"] = own["arm"]  # in place: rows that take no part keep their arm
        call(case.op, **own)
        alike = one_after_the_other(call, {**args, "next_arm": args["arm"].clone()})
        raw.same({name: own[name] for name in alike}, alike, f"{case.name} in place")


@pytest.mark.parametrize("bandit", [interpreted_if(b in INTERPRETED, b) for b in BANDITS])
@pytest.mark.sliced(4)
def test_a_step_chooses_by_what_it_learns(backend, bandit):
    """Else choosing before learning would pass for it (``fixed`` learns nothing)."""
    changed = False
    for seed in range(few(backend, 8, 3)):
        args = Case("bandit_step", batch=24, bandit=bandit, seed=seed).inputs()
        found = raw.run(raw.caller(backend), "bandit_step", args)["next_arm"]
        untaught = {**args, "live": torch.zeros_like(args["live"])}
        changed |= not found.equal(
            raw.run(raw.caller(backend), "bandit_step", untaught)["next_arm"]
        )
    assert changed == (bandit != "fixed")


# ---- rows, and what must not change -------------------------------------------------------------


@pytest.mark.parametrize("bandit", BANDITS)
@pytest.mark.sliced(4)
def test_rows_name_where_a_batch_row_keeps_its_state(backend, bandit):
    """The same call without rows, its arms and memory moved there and back by hand."""
    rows = torch.tensor([5, 0, 3, 6], dtype=torch.int32)
    index = rows.long()
    select = {**Case("bandit_select", bandit=bandit).inputs(), "rows": None}
    select["arm"] = select["arm"][:4].contiguous()
    drawn = select["arm_prob"] is not None
    prob = torch.full((8, *select["arm_prob"].shape[1:]), 9.0).double() if drawn else None
    select["arm_prob"] = select["arm_prob"][:4].contiguous() if drawn else None
    if drawn:
        prob[index] = select["arm_prob"]
    chosen = raw.run(raw.caller(backend), "bandit_select", select)
    packed = chosen["arm"]
    select.update(rows=rows, arm=torch.full((8, *packed.shape[1:]), -1, dtype=torch.int32))
    scattered = raw.run(raw.caller(backend), "bandit_select", {**select, "arm_prob": prob})
    arm = scattered["arm"]
    assert arm[index].equal(packed)
    assert (arm[[1, 2, 4, 7]] == -1).all()
    if drawn:
        assert scattered["arm_prob"][index].equal(chosen["arm_prob"])
        assert (scattered["arm_prob"][[1, 2, 4, 7]] == 9).all()
    args = {**Case("bandit_update", bandit=bandit).inputs(), "rows": None}
    args["memory"] = args["memory"][:4].contiguous()
    args["arm_prob"] = chosen.get("arm_prob")
    before = raw.run(raw.caller(backend), "bandit_update", {**args, "arm": packed})
    memory = torch.full((8, *args["memory"].shape[1:]), 9.0)
    memory[index] = args["memory"]
    args["arm_prob"] = scattered.get("arm_prob")
    after = raw.run(raw.caller(backend), "bandit_update",
                    {**args, "arm": arm, "rows": rows, "memory": memory})  # fmt: skip
    assert (after["memory"][[1, 2, 4, 7]] == 9).all()
    after["memory"] = after["memory"][index]
    raw.same(before, after)


SPOILED = {
    "dead": ("live", torch.zeros(4, dtype=torch.bool)),
    "group -1": ("group", torch.full((4,), -1, dtype=torch.int32)),
    "group G": ("group", torch.full((4,), 3, dtype=torch.int32)),
    "row -1": ("rows", torch.full((4,), -1, dtype=torch.int32)),
    "row R": ("rows", torch.full((4,), 8, dtype=torch.int32)),
    "status": ("status", torch.full((4,), 3, dtype=torch.int32)),
    "arm -1": ("arm", -1),
    "arm A": ("arm", len(ARMS)),
}


@pytest.mark.parametrize("what", SPOILED)
@pytest.mark.parametrize("bandit", [interpreted_if(b in INTERPRETED, b) for b in BANDITS])
@pytest.mark.sliced(5)
def test_rows_that_take_no_part_change_nothing(backend, bandit, what):
    """A discount too has nothing to forget."""
    name, value = SPOILED[what]
    for op in ("bandit_select", "bandit_update", "bandit_step"):
        args = Case(op, bandit=bandit, seed=1).inputs()
        if name not in args or (op == "bandit_select" and name == "arm"):
            continue
        args[name] = torch.full_like(args[name], value) if name == "arm" else value
        if op == "bandit_step":  # what teaches nothing may be chosen for
            args["next_live"] = torch.zeros(4, dtype=torch.bool)
        found = raw.run(raw.caller(backend), op, args)
        if op != "bandit_update":
            args["calls"] = args["calls"] + 1
        raw.same(found, args, f"{op} {bandit} {what}")


def test_the_unspoiled_rows_do_change_something(backend):
    for bandit in BANDITS:
        args = Case("bandit_update", bandit=bandit, seed=1, batch=8).inputs()
        found = raw.run(raw.caller(backend), "bandit_update", args)
        assert not found["count"].equal(args["count"])
