"""How CUDA's kernels are launched, and what must not change a result: seen in the emulator."""

from __future__ import annotations

import pytest
import torch
from helpers import raw

from tapout_kernels.testing import Case

call = raw.caller("cuda")
LONG = Case("row_stats", batch=2, slots=2, vocab=9 * 1024 + 5, dtype=torch.bfloat16)
VERIFY = LONG.with_(op="verify")
TREE = LONG.with_(op="tree_verify", slots=5)
CASES = [
    LONG,
    LONG.with_(sampling="all"),
    LONG.with_(op="sample"),
    LONG.with_(op="sample", rule="gumbel", sampling="mixed"),
    LONG.with_(op="draft_step", sampling="all", masked=True),
    LONG.with_(op="draft_step", rule="gumbel", draft_vocab=True),
    LONG.with_(op="proposal_reset"),
    LONG.with_(op="proposal_load", sampling="top_p"),
    *(VERIFY.with_(rule=rule) for rule in ("token", "greedy", "gumbel", "block")),
    VERIFY.with_(sampling="all", masked=True),
    VERIFY.with_(drafts="one_hot", ragged=True, dtype=torch.float32),
    VERIFY.with_(rule="block", sampling="mixed", extras=True),
    Case("bandit_select", batch=70),
    Case("bandit_update", batch=70, level="token"),
    Case("bandit_step", batch=70),
    Case("bandit_select", batch=70, bandit="exp3_token"),
    Case("bandit_step", batch=70, bandit="normalhedge"),
    Case("tree_layout", batch=2, slots=70),
    Case("tree_mask", batch=2, slots=33, seed=3),
    Case("tree_mask_flat", batch=5, slots=11, seed=3),
    Case("compact_kv", batch=5, slots=12, ragged=True, extras=True),
    Case("tree_rerank", batch=5, slots=40),
    LONG.with_(op="tree_expand", slots=4, sampling="mixed", extras=True),
    LONG.with_(op="tree_expand", slots=4, drafts="one_hot", masked=True),
    *(TREE.with_(rule=rule) for rule in ("token", "gumbel")),
    TREE.with_(sampling="all", masked=True, drafts="one_hot"),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
ORDERS = [(seed, in_flight) for seed, in_flight in enumerate((1, 2, 3, 4, 6, 8, 12, 16))]


@cases
def test_number_of_launches(emulator, case):
    emulator.launches()
    raw.run(call, case.op, case.inputs())
    assert 1 <= emulator.launches() <= (2 if case.op == "verify" else 1)


@pytest.mark.parametrize("op", ["row_stats", "sample"])
def test_no_rows_no_launch(emulator, op):
    args = LONG.with_(op=op, batch=0).inputs()
    emulator.launches()
    raw.same(raw.run(call, op, args), {name: args[name] for name in raw.written(op)})
    assert emulator.launches() == 0


@cases
def test_the_order_of_blocks_and_threads_changes_nothing(emulator, case):
    args, found = case.inputs(), []
    for order in ORDERS:
        emulator.configure(*order)
        found.append(raw.run(call, case.op, args))
    for other in found[1:]:
        raw.same(other, found[0], case.name)


@cases
def test_the_number_of_multiprocessors_changes_nothing(emulator, case):
    args, found = case.inputs(), []
    for count in (1, 3, 132):
        emulator.pretend(multiprocessors=count)
        found.append(raw.run(call, case.op, args))
    for other in found[1:]:
        raw.same(other, found[0], case.name)


@cases
@pytest.mark.parametrize("garbage", [0x00, 0x7F, 0xFF])  # zeros, large numbers, NaN and -1
def test_scratch_may_hold_anything(emulator, case, garbage):
    args = case.inputs()
    expected = raw.run(call, case.op, args)
    emulator.pretend(garbage=garbage)
    raw.same(raw.run(call, case.op, args), expected, case.name)


@cases
def test_nothing_is_read_or_written_beside_the_arguments(emulator, case):
    raw.check_nothing_beside(call, case.op, case.inputs())


def test_scratch_grows_and_a_capture_takes_what_is_missing(emulator):
    """Small, large, small again; then a call larger than all before it, inside a capture."""
    for batch, capturing in ((70, False), (700, False), (70, True), (1500, True), (700, False)):
        emulator.pretend(capturing=capturing)
        args = Case("bandit_select", batch=batch, bandit="ucb1", seed=batch).inputs()
        expected = raw.run(raw.caller("reference"), "bandit_select", args)
        raw.same(raw.run(call, "bandit_select", args), expected, f"{batch} {capturing}")
