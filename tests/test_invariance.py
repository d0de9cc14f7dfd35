"""Contract 3: a row's result is bit-equal alone, permuted, padded, strided, on any thread count."""

from __future__ import annotations

import pytest
import torch
from helpers import raw
from helpers.device import affordable, few, interpreted_if, is_refused
from torch import Tensor

from tapout_kernels import testing
from tapout_kernels.reference.accept import RULES
from tapout_kernels.reference.stats import Sampling, process
from tapout_kernels.testing import Case

ROW_OPS = ("row_stats", "sample", "proposal_reset", "proposal_load", "draft_step", "verify")
PER_TABLE = {
    "rule_kind",
    "rule_param",
    "num_active",
    "child_start",
    "next_node",
}  # everything else has a row per request
CASES = [
    Case(op, batch=9, vocab=vocab, sampling="mixed", dtype=dtype)
    for op in ROW_OPS
    for vocab, dtype in ((7, torch.float32), (2500, torch.bfloat16))
] + [
    Case("verify", batch=9, vocab=2500, sampling="mixed", rule="greedy"),
    Case("verify", batch=9, vocab=2500, drafts="one_hot"),
    *(
        Case("verify", 9, 8, 2500, sampling="mixed", rule=rule)
        for rule in ("lossy_typical", "lossy_fly", "lossy_adasd")
    ),
    *(
        Case("tree_verify", 9, 6, 2500, sampling="mixed", rule=rule)
        for rule in ("token", "block", "gumbel")
    ),
    Case("tree_verify", 9, 6, 2500, drafts="one_hot"),
    *(Case(op, 9, 40) for op in ("tree_layout", "tree_mask", "tree_rerank")),
    Case("tree_expand", 9, 4, 2500, sampling="mixed", extras=True),
    Case("tree_expand", 9, 4, 2500, drafts="one_hot"),
    *(Case("tree_attention", 9, 5, seed=seed) for seed in (10, 11)),  # without pages
]
TREES = [case for case in CASES if case.op.startswith("tree")]
SEVERAL = {case for i, case in enumerate(TREES) if case.op in {x.op for x in TREES[:i]}}


def each(chosen: list[Case]):
    """One of each operator of trees is affordable where Triton is interpreted."""
    values = [interpreted_if(case not in SEVERAL, case) for case in chosen]
    return pytest.mark.parametrize("case", values, ids=lambda case: case.name)


cases = each(CASES)


STATE = {  # what a dead row keeps
    "sample": ("rng_round", "position"),
    "proposal_reset": ("rng_round", "round"),
    "proposal_load": ("tokens", "length", "stats", "stop_reason"),
    "draft_step": ("tokens", "length", "stats", "stop_reason", "kept_logits"),
    "verify": ("position",),
    "tree_verify": ("position",),
    "tree_expand": ("tokens", "parents", "score", "depth"),
}
DEAD = {  # what an operator says of a dead row
    "sample": {"tokens": -1},
    "proposal_reset": {"tokens": -1, "length": 0, "stop_reason": 4, "active": False,
                       "out_live": False},
    "proposal_load": {"active": False},
    "draft_step": {"next_token": 0, "active": False},
    "verify": {"tokens": -1, "num_accepted": 0, "num_emitted": 0, "last_token": 0, "status": 0,
               "accept_prob": -1.0},
    "tree_verify": {"tokens": -1, "path": -1, "num_accepted": 0, "num_emitted": 0, "last_token": 0,
                    "status": 0},
    "tree_expand": {"next_beam": -2, "next_row": 0, "next_token": 0, "active": False},
}  # fmt: skip


def rows(args: dict, index: Tensor) -> dict:
    """The same requests in another order, or a part of them."""
    return {
        name: value[index] if isinstance(value, Tensor) and name not in PER_TABLE else value
        for name, value in raw.clone(args).items()
    }


def run(backend: str, case: Case, args: dict) -> dict[str, Tensor]:
    written = raw.run(raw.caller(backend), case.op, args)
    written.pop("num_active", None)  # of the whole batch, by definition
    return written


@cases
@pytest.mark.sliced(4)
def test_batch_permutation(backend, case):
    if is_refused(backend, case):
        return
    case = affordable(backend, case)
    args = case.inputs()
    order = torch.randperm(case.batch, generator=torch.Generator().manual_seed(3))
    alike = {k: v[order] for k, v in run(backend, case, args).items()}
    raw.same(run(backend, case, rows(args, order)), alike, case.name)


@cases
@pytest.mark.sliced(4)
def test_single_row(backend, case):
    if is_refused(backend, case):
        return
    case = affordable(backend, case)
    args = case.inputs()
    together = run(backend, case, args)
    for b in range(case.batch):
        one = torch.tensor([b])
        alone = run(backend, case, rows(args, one))
        raw.same(alone, {k: v[one] for k, v in together.items()}, f"{case.name} row {b}")


@each([case for case in CASES if case.op in STATE])
@pytest.mark.sliced(4)
def test_dead_rows_beside(backend, case):
    """Dead rows between the others change nothing, and nothing of theirs changes."""
    if is_refused(backend, case):
        return
    case = affordable(backend, case)
    args = case.inputs()
    flag = "active" if case.op in ("draft_step", "proposal_load", "tree_expand") else "live"
    padded = rows(args, torch.arange(case.batch).repeat_interleave(2))
    alive = torch.arange(2 * case.batch) % 2 == 0
    mine = torch.ones(case.batch, dtype=torch.bool) if args[flag] is None else args[flag]
    padded[flag] = mine.repeat_interleave(2) & alive
    together = run(backend, case, padded)
    raw.same({k: v[alive] for k, v in together.items()}, run(backend, case, args), case.name)
    for name in (*STATE[case.op], *(["lossy_memory"] if "lossy_memory" in together else [])):
        assert raw.equal_bits(together[name][~alive], padded[name][~alive]), f"{name} of a dead row"
    for name, value in DEAD[case.op].items():
        assert (together[name][~alive] == value).all(), f"{name} of a dead row"


def test_dead_rows_of_a_bandit_change_nothing(backend):
    select, update = Case("bandit_select").inputs(), Case("bandit_update").inputs()
    select["live"], update["live"] = torch.zeros(4, dtype=torch.bool), update["live"] & False
    found = raw.run(raw.caller(backend), "bandit_select", select)
    assert found["arm"].equal(select["arm"])
    assert found["calls"].equal(select["calls"] + 1)
    found = raw.run(raw.caller(backend), "bandit_update", update)
    raw.same(found, update, "bandit_update")
    step = Case("bandit_step").inputs()
    step["live"], step["next_live"] = step["live"] & False, step["live"] & False
    found = raw.run(raw.caller(backend), "bandit_step", step)
    raw.same(found, {**step, "calls": step["calls"] + 1}, "bandit_step")


@pytest.mark.parametrize("case", testing.CASES[::2], ids=lambda case: case.name)
@pytest.mark.sliced(5)
def test_thread_counts_and_repetition(native, case):
    same_on_any_number_of_threads(native, case)


FEW = [case for case in testing.CASES[::19] if case.vocab <= 8193]


@pytest.mark.interpreted_slow  # it has no threads
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@pytest.mark.sliced(5)
def test_thread_counts_and_repetition_elsewhere(backend, case):
    """The reference has torch's threads; the others are as repeatable."""
    if not is_refused(backend, case):
        same_on_any_number_of_threads(backend, case)


def same_on_any_number_of_threads(backend: str, case: Case) -> None:
    args, found = case.inputs(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        found.append(raw.run(raw.caller(backend), case.op, args))
    raw.same(found[1], found[0], f"{case.name} on 2 threads")
    raw.same(found[2], found[1], f"{case.name} repeated")


def test_the_reference_row_does_not_depend_on_its_batch_in_float64():
    """Rounding to float32 must not be what hides a sum whose order depends on the batch."""
    torch.set_num_threads(2)
    logits = torch.randn(6, 49152, generator=torch.Generator().manual_seed(0))
    together = process(logits, Sampling()).probs
    for row in range(len(logits)):
        alone = process(logits[row : row + 1], Sampling()).probs
        assert torch.equal(alone[0], together[row])


# ---- strides -----------------------------------------------------------------------------------


def expected_copy(args: dict, name: str) -> dict:
    return {**args, name: args[name].contiguous()}


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("vocab", [7, interpreted_if(False, 1025)])
@pytest.mark.sliced(3)
def test_strided_logits(backend, dtype, vocab):
    """Views of a larger buffer need no copy: logits[:, :-1], every other row, a padded row."""
    for op in ("row_stats", "sample", "draft_step"):
        case = Case(op, vocab=vocab, dtype=dtype, sampling="all")
        args = case.inputs()
        wide = torch.full((2 * case.batch, vocab + 3), 9.0, dtype=dtype)
        wide[::2, :vocab] = args["logits"]
        strided = {**args, "logits": wide[::2, :vocab]}
        raw.same(run(backend, case, strided), run(backend, case, args), case.name)
    case = Case("verify", slots=2, vocab=vocab, dtype=dtype, sampling="all")
    args = case.inputs()
    buffer = torch.full((case.batch, 5, vocab + 1), 9.0, dtype=dtype)
    buffer[:, 1:4, :vocab] = args["target_logits"]
    kept = torch.full((case.batch, 4, vocab), 9.0, dtype=dtype)
    kept[:, :-2] = args["draft_logits"]
    strided = {**args, "target_logits": buffer[:, 1:4, :vocab], "draft_logits": kept[:, :-2]}
    raw.same(run(backend, case, strided), run(backend, case, args), case.name)


def test_stride_zero_logits(backend):
    """One row for all: expand() over requests, over slots, over both."""
    row = Case("row_stats", vocab=1025).inputs()["logits"][0]
    for op, name in (("row_stats", "logits"), ("sample", "logits"), ("draft_step", "logits"),
                     ("verify", "target_logits"), ("proposal_load", "logits")):  # fmt: skip
        case = Case(op, vocab=1025, sampling="mixed")
        args = case.inputs()
        args[name] = row.expand(args[name].shape)
        assert args[name].stride(0) == 0
        raw.same(run(backend, case, args), run(backend, case, expected_copy(args, name)), op)
    per_request = Case("verify", vocab=1025).inputs()
    per_request["target_logits"] = per_request["target_logits"][:, :1].expand(4, 4, 1025)
    copied = expected_copy(per_request, "target_logits")
    case = Case("verify", vocab=1025)
    raw.same(run(backend, case, per_request), run(backend, case, copied), "verify")


# ---- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("drafts", ["full", "one_hot"])
def test_more_slots_than_needed(backend, drafts):
    """K larger than every length: the same tokens, and -1 beyond."""
    case = Case("verify", batch=8, slots=3, vocab=50, drafts=drafts)
    args = case.inputs()
    wide = raw.clone(args)
    garbage = {"draft_tokens": 1 << 40, "stats": float("nan"), "accept_prob": 0.0, "tokens": 0}
    for name, filler in {**garbage, "draft_logits": float("nan"), "target_logits": 0.0}.items():
        value = wide[name]
        if value is not None:
            more = torch.full_like(value[:, :1], filler).expand(-1, 2, *value.shape[2:])
            wide[name] = torch.cat([value, more], 1)
    wide["target_logits"][:, 4:] = float("nan")  # rows beyond the draft are never looked at
    found, expected = run(backend, case, wide), run(backend, case, args)
    for name in ("tokens", "accept_prob"):
        assert (found[name][:, expected[name].shape[1] :] == -1).all()
        found[name] = found[name][:, : expected[name].shape[1]].contiguous()
    raw.same(found, expected, case.name)


@pytest.mark.parametrize("sampling", ["plain", "mixed", "zero"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.sliced(4)
def test_sample_equals_verify_of_an_empty_draft(backend, sampling, rule):
    batch = few(backend, 50, 4)
    case = Case("sample", batch=batch, vocab=1025, sampling=sampling)
    args = {**case.inputs(), "rule": rule}
    v = Case("verify", batch=batch, slots=1, vocab=1025, sampling=sampling).inputs()
    v.update({name: args[name] for name in ("seed", "position", *Sampling._fields)})
    v["target_logits"][:, 0] = args["logits"]
    v.update(round=args["rng_round"], length=torch.zeros_like(v["length"]), rule=rule)
    sampled, verdict = run(backend, case, args), raw.run(raw.caller(backend), "verify", v)
    assert sampled["tokens"].equal(verdict["tokens"][:, 0])
    assert sampled["position"].equal(verdict["position"])
    assert sampled["rng_round"].equal(args["rng_round"] + 1)
