"""Triton's bandit and ``proposal_reset``: scratch memory, the order of programs."""

from __future__ import annotations

import importlib

import pytest
import torch
from helpers import naive_bandit, raw
from test_bandit_blocks import equal_to_the_reference, tables

from tapout_kernels.testing import Case

OPS = ("proposal_reset", "bandit_select", "bandit_update", "bandit_step")
triton = raw.caller("triton")


# ---- blocks -------------------------------------------------------------------------------------


def test_more_arms_than_a_block_of_pairs(monkeypatch):
    """Every entry of a merge is then compared alone."""
    bandit_select = importlib.import_module("tapout_kernels._triton.bandit_select")
    args = tables("ucb1", 40, 1, 5, seed=0)
    monkeypatch.setattr(bandit_select, "TILE", 32)
    monkeypatch.setattr(bandit_select, "DRAWS", 32)
    for policy in ("ucb1", "thompson_gaussian"):
        args["policy"] = naive_bandit.POLICIES[policy]
        equal_to_the_reference("triton", "bandit_select", args, policy)


# ---- scratch memory -----------------------------------------------------------------------------


def spoil_scratch() -> None:
    from tapout_kernels._triton import launch

    for arena in launch._arenas.values():
        assert not arena.tickets.any(), "a ticket is not back at 0"
        arena.bytes.fill_(0xFF)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bandit", ["ucb1", "ucb_tuned_token", "beta", "exp3_token", "hedge"])
@pytest.mark.sliced(4)
def test_what_scratch_memory_held_before_does_not_matter(op, bandit):
    case = Case(op, batch=70, slots=2, bandit=bandit)
    args = case.inputs()
    expected = raw.run(triton, op, args)
    spoil_scratch()
    raw.same(raw.run(triton, op, args), expected, case.name)


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
@pytest.mark.parametrize("bandit", ["ucb1_token", "epsilon", "exp3_token", "normalhedge"])
@pytest.mark.sliced(3)
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
    return {name: own[name] for name in raw.written(op) if own[name] is not None}
