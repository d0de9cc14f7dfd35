"""How Triton's kernels are launched: how often, over how many programs, in which scratch."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import pytest
import torch
from helpers import device, raw
from helpers.launching import modules_that_launch
from test_known_answers import uniform
from torch.utils._python_dispatch import TorchDispatchMode

from tapout_kernels._triton import launch as launching
from tapout_kernels.testing import Case

PLAN = "INTERPRETER" if device.INTERPRETED else "GPU"
TILE = getattr(launching, PLAN).tile
BASE = Case("verify", batch=2, slots=2, vocab=64, dtype=torch.bfloat16)
LAUNCHES = {  # at most
    BASE.with_(op="row_stats"): 1,
    BASE.with_(op="sample"): 1,
    BASE.with_(op="sample", rule="gumbel", sampling="all"): 1,
    BASE.with_(op="draft_step"): 1,
    BASE.with_(op="draft_step", sampling="all", masked=True, draft_vocab=True): 1,
    BASE.with_(op="draft_step", rule="gumbel"): 1,
    BASE.with_(op="proposal_reset"): 1,
    BASE.with_(op="bandit_select"): 1,
    BASE.with_(op="bandit_update"): 1,
    BASE.with_(op="bandit_step"): 1,
    BASE.with_(op="tree_layout", slots=40): 1,
    BASE.with_(op="tree_mask", slots=40): 1,
    BASE.with_(op="tree_mask_flat"): 1,
    BASE.with_(op="compact_kv", slots=12, ragged=True, extras=True): 1,
    BASE.with_(op="tree_expand", slots=3, sampling="all", masked=True): 1,
    BASE.with_(op="tree_rerank", slots=5): 1,
    BASE.with_(op="tree_attention", slots=5, seed=11, dtype=torch.float32): 2,
    BASE.with_(op="tree_verify", slots=3): 1,
    BASE.with_(op="tree_verify", slots=3, sampling="all", masked=True): 1,
    BASE: 2,
    BASE.with_(drafts="one_hot"): 2,
    BASE.with_(rule="greedy"): 2,
    BASE.with_(rule="gumbel"): 2,
    BASE.with_(rule="block"): 3,
    BASE.with_(extras=True): 3,
    BASE.with_(sampling="all"): 3,
    BASE.with_(sampling="all", rule="block", extras=True): 3,
}
launches = pytest.mark.parametrize("case", LAUNCHES, ids=lambda case: case.name)


class TorchCalls(TorchDispatchMode):
    """The torch operators called, but for ones that only make a view or memory."""

    def __init__(self):
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and not func.name().startswith("aten::empty"):
            self.called.append(func.name())
        return func(*args, **(kwargs or {}))


@launches
@pytest.mark.sliced(3)
def test_number_of_launches(triton, monkeypatch, case):
    """And nothing of torch's beside them, once the workspace is there."""
    args, programs = case.inputs(), []
    raw.run(raw.caller("triton"), case.op, args)
    if not device.INTERPRETED:
        args = {n: v.cuda() if isinstance(v, torch.Tensor) else v for n, v in args.items()}
        triton.OPS[case.op](**args)

    def launch(kernel, count, *arguments, **constants):
        programs.append(count)

    for module in modules_that_launch():
        monkeypatch.setattr(module, "launch", launch)
    with TorchCalls() as torch_calls:
        triton.OPS[case.op](**args)
    assert 1 <= len(programs) <= LAUNCHES[case]
    assert not torch_calls.called


# ---- programs a row is split over ----------------------------------------------------------------

LONG = Case("row_stats", batch=2, slots=2, vocab=3 * TILE + 5, dtype=torch.bfloat16)
SPLIT = [
    LONG.with_(sampling="all"),
    LONG.with_(op="sample"),
    LONG.with_(op="sample", rule="gumbel"),
    LONG.with_(op="draft_step", sampling="all", masked=True),
    LONG.with_(op="draft_step", rule="gumbel", draft_vocab=True),
    LONG.with_(op="proposal_load", sampling="top_p"),
    LONG,
    *(LONG.with_(op="verify", rule=rule) for rule in ("token", "greedy", "gumbel")),
    LONG.with_(op="verify", sampling="all", masked=True),
    LONG.with_(op="verify", rule="block", sampling="mixed", extras=True),
    LONG.with_(op="tree_expand", slots=3),
    LONG.with_(op="tree_verify", slots=4),
    LONG.with_(op="tree_verify", slots=4, sampling="all", drafts="one_hot"),
]


def arenas() -> list:
    return list(launching._arenas.values())


def run(case: Case, args: dict, garbage: int = 0xFF) -> dict[str, torch.Tensor]:
    """With nothing in scratch that an earlier launch has left."""
    for arena in arenas():
        arena.bytes.fill_(garbage)
    return raw.run(raw.caller("triton"), case.op, args)


@pytest.mark.parametrize("case", SPLIT, ids=lambda case: case.name)
@pytest.mark.sliced(4)
def test_the_number_of_programs_changes_nothing(triton, monkeypatch, case):
    args, plan = case.inputs(), getattr(launching, PLAN)
    found, splits = [], set()
    for programs in (1, 4, 1000):
        monkeypatch.setattr(
            launching, PLAN, plan._replace(programs=programs, last_programs=programs)
        )
        splits.add(launching.splits(case.batch, case.vocab, getattr(launching, PLAN)))
        found.append(run(case, args))
    assert splits == {1, 2, 4}
    for other in found[1:]:
        raw.same(other, found[0], case.name)


@pytest.mark.parametrize("case", SPLIT, ids=lambda case: case.name)
@pytest.mark.sliced(4)
def test_the_order_of_programs_changes_nothing(triton, monkeypatch, case):
    """The interpreter runs them in order; a GPU does not."""
    from triton.runtime.interpreter import interpreter_builder as builder

    plan = getattr(launching, PLAN)._replace(programs=1000, last_programs=1000)
    monkeypatch.setattr(launching, PLAN, plan)
    args, forward = case.inputs(), builder.set_grid_idx
    expected = raw.run(raw.caller("triton"), case.op, args)
    for order in (lambda x, n: n - 1 - x, lambda x, n: (x + n // 2) % n):
        monkeypatch.setattr(
            builder, "set_grid_idx",
            lambda x, y, z, order=order: forward(order(x, builder.grid_dim[0]), y, z),
        )  # fmt: skip
        raw.same(run(case, args), expected, case.name)


def test_equal_logits_are_drawn_evenly_over_every_tile(triton):
    """Id = floor(u V): the draw finds its tile, the last and incomplete one too."""
    vocab, batch = 4 * TILE - 5, 24
    seeds = torch.arange(batch)
    tokens, zeros = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)
    for round_ in range(2):
        raw.caller("triton")(
            "sample", logits=torch.zeros(batch, vocab), temperature=None, top_k=None, top_p=None,
            min_p=None, token_mask=None, seed=seeds, live=None, rows=None, rule=0,
            rng_round=zeros + round_, position=zeros.clone(), tokens=tokens,
        )  # fmt: skip
        assert tokens.tolist() == [int(uniform(s, 0, round_, 2) * vocab) for s in range(batch)]
        assert {token // TILE for token in tokens.tolist()} >= {0, 1, 2, 3}


# ---- scratch -------------------------------------------------------------------------------------

EVERY_OP = [case for case in LAUNCHES if case.op != "verify" or not case.extras] + [
    LONG.with_(op="draft_step", sampling="all"), BASE.with_(op="proposal_load", sampling="all"),
]  # fmt: skip


def test_tickets_are_zero_between_launches(triton):
    """A launch that finds another number would never finish, or finish too early."""
    for case in EVERY_OP:
        raw.run(raw.caller("triton"), case.op, case.inputs())
        assert not any(arena.tickets.any() for arena in arenas()), case.name
    assert any(len(arena.tickets) for arena in arenas())


@pytest.mark.parametrize("garbage", [0x00, 0x7F, 0xFF])  # zeros, large numbers, NaN and -1
@pytest.mark.sliced(4)
def test_scratch_may_hold_anything(triton, garbage):
    for case in EVERY_OP:
        args = case.inputs()
        expected = raw.run(raw.caller("triton"), case.op, args)
        raw.same(run(case, args, garbage), expected, case.name)


def test_scratch_grows_and_stays(monkeypatch):
    """The largest launch so far decides; what is smaller finds the same memory."""
    monkeypatch.setattr(launching, "_arenas", {})
    host = torch.device("cpu")
    small = launching.workspace(host, 1, ((4,), torch.float32))
    arena = arenas()[0]
    more = arena.bytes.numel() + 1, arena.tickets.numel() + 1
    large = launching.workspace(host, more[1], ((more[0],), torch.uint8))
    assert large.tickets.numel() >= more[1]
    assert not large.tickets.any()
    again = launching.workspace(host, 1, ((4,), torch.float32), ((2,), torch.int64))
    assert again.arrays[0].data_ptr() == large.arrays[0].data_ptr() != small.arrays[0].data_ptr()
    assert again.arrays[1].data_ptr() - again.arrays[0].data_ptr() == 256, "aligned"


@pytest.mark.parametrize("captures", [False, True])
def test_memory_that_a_graph_has_captured_outlives_growth(monkeypatch, captures):
    monkeypatch.setattr(launching, "_arenas", {})
    monkeypatch.setattr(launching, "_outgrown", [])
    host = torch.device("cpu")
    launching.workspace(host, 1, ((4,), torch.float32))
    with monkeypatch.context() as during:
        during.setattr(launching, "_capturing", lambda device: captures)
        launching.workspace(host, 1, ((4,), torch.float32))
        if captures:  # more than there is: for this launch alone
            launching.workspace(host, 1, ((4096,), torch.float32))
    memory = weakref.ref(arenas()[0].bytes)
    launching.workspace(host, 1, ((memory().numel() + 1,), torch.float32))
    assert (memory() is not None) == captures


def test_the_device_of_the_tensors_launches(triton, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: seen.append(x) or nullcontext())
    raw.run(raw.caller("triton"), "proposal_reset", Case("proposal_reset").inputs())
    assert [type(x) for x in seen] == [torch.Tensor]


def test_nothing_is_read_or_written_beside_the_arguments(triton):
    for case in EVERY_OP:
        raw.check_nothing_beside(raw.caller("triton"), case.op, case.inputs())
