"""verify against an independent, slow reading of its contract, on the same noise: equal integers.

Every rule x draft x mask x layout x optional output x filter, with invalid rows and bad drafts
among the requests; then the same requests arranged otherwise, which must not change a bit.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import raw, slow_verify
from helpers.device import affordable, few, interpreted_if
from helpers.verify_inputs import OF_REQUEST, spoil, take, target_row

from tapout_kernels.testing import NEAR, TOLERANCES, Case

RULES = ("token", "block", "gumbel", "greedy")
DRAFTS = ({"drafts": "one_hot"}, {}, {"draft_vocab": True})
FILTERS = ("plain", "all", "mixed")
INTEGERS = ("tokens", "num_accepted", "num_emitted", "last_token", "status", "position")
FLOATS = {
    "accept_prob": TOLERANCES["accept_prob"],
    "overlap": (NEAR, 0.0),  # a mass
    "logprobs": TOLERANCES["token_logprob"],
}


def arguments(case: Case, bad: bool) -> dict:
    args = case.inputs()
    return spoil(args) if bad else args


def same_decisions(backend: str, case: Case, args: dict) -> dict:
    found = raw.run(raw.caller(backend), "verify", args)
    expected = raw.run(slow_verify.verify, "verify", args)
    for name in INTEGERS:
        assert torch.equal(found[name], expected[name]), f"{case.name} {name}"
    for name, (atol, rtol) in FLOATS.items():
        if name in found:
            torch.testing.assert_close(
                found[name], expected[name], atol=atol, rtol=rtol, equal_nan=True,
                msg=lambda m, name=name: f"{case.name} {name}: {m}",
            )  # fmt: skip
    return found


def product(rule: str, **shape: int) -> list[Case]:
    """Every draft x mask x ragged x rows x extras x filter; an odd seed asks for raw logprobs."""
    flags = ("masked", "ragged", "rows", "extras")
    axes = itertools.product(DRAFTS, itertools.product((False, True), repeat=4), FILTERS)
    return [
        Case("verify", rule=rule, sampling=sampling, seed=i, **shape, **drafts,
             **dict(zip(flags, on, strict=True)))
        for i, (drafts, on, sampling) in enumerate(axes)
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [False, True], ids=["valid", "spoiled"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_every_combination_at_five_ids(compiled, rule, bad):
    statuses, lengths = set(), set()
    every = few(compiled, 1, 37)  # prime: no axis is left out
    for case in product(rule, batch=13, slots=3, vocab=5)[::every]:
        found = same_decisions(compiled, case, arguments(case, bad))
        statuses |= set(found["status"].tolist())
        lengths |= set(found["num_accepted"].tolist())
    assert lengths == {0, 1, 2, 3}
    assert statuses >= ({0, 1, 2, 3} if bad else {0, 2})  # EMPTY: masked out in one request


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [interpreted_if(False, 1025), 3000])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_combinations_over_chunks(compiled, rule, vocab, dtype):
    """A sample of the product where a row is more than one chunk."""
    cases = product(rule, batch=5, slots=3, vocab=vocab)
    step = 41 if vocab == 1025 else 97  # prime: no axis is left out
    offset = (torch.float32, torch.bfloat16, torch.float16).index(dtype)
    for case in cases[offset * 7 :: step]:
        same_decisions(compiled, case.with_(dtype=dtype), arguments(case.with_(dtype=dtype), True))


@pytest.mark.parametrize(
    "options",
    [{}, interpreted_if(False, {"draft_vocab": True}), interpreted_if(False, {"masked": True})],
    ids=str,
)
def test_block_between_its_levels(compiled, options):
    """Requests that end at a level of w < 1: its residual is not that of the token rule."""
    batch = few(compiled, 300, 64)
    case = Case("verify", batch=batch, slots=3, vocab=5, rule="block", **options)
    args = case.inputs()
    args["length"].fill_(3)
    found = same_decisions(compiled, case, args)
    accepted = found["num_accepted"]
    assert ((accepted > 0) & (accepted < 3)).sum() > batch // 10


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_drafts_longer_than_a_warp(compiled, rule):
    """GPU kernels look at 32 slots at a time: these drafts end around there."""
    case = Case("verify", batch=few(compiled, 8, 2), slots=40, vocab=5, rule=rule, extras=True)
    args = case.inputs()
    args["length"].fill_(case.slots)
    liked = torch.full((case.batch, case.slots, 1), 40.0)
    rejected = 34 - torch.arange(case.batch)
    liked[torch.arange(case.batch), rejected] = -40.0
    args["target_logits"][:, :-1].scatter_(2, args["draft_tokens"].unsqueeze(-1), liked)
    accepted = same_decisions(compiled, case, args)["num_accepted"]
    assert torch.equal(accepted, rejected.to(torch.int32))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_ragged_rows_that_do_not_exist(compiled, rule):
    """A row outside [max(start, 0), min(next start, n)) is EMPTY, wherever the starts point."""
    case = Case("verify", batch=6, slots=3, vocab=7, rule=rule, ragged=True, extras=True)
    args = case.inputs()
    n = args["target_logits"].shape[0]
    args["length"].fill_(2)
    statuses = []
    for start in ([0, 3, 6, 9, n - 1, n + 5, n + 9], [-1, 2, 1, 4, 7, 7, 9],
                  [n, 0, -5, n - 2, 3, 2**31 - 1, -(2**31)], [3, 4, 6, 8, 10, 13, n]):  # fmt: skip
        args["row_start"] = torch.tensor(start, dtype=torch.int32)
        statuses += same_decisions(compiled, case, args)["status"].tolist()
    assert statuses.count(2) >= 9  # rows before the start, beyond n, and empty requests


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_raw_logprobs_are_those_of_the_row_as_it_came(compiled, rule):
    """No mask, temperature or filter; NaN where the row has one, though it is masked out."""
    case = Case("verify", batch=6, slots=2, vocab=40, rule=rule, masked=True, extras=True,
                sampling="all", seed=1)  # fmt: skip
    args = case.inputs()
    assert args["raw_logprobs"]
    masked = (args["token_mask"][5, 0, 0] & 1) == 0
    args["token_mask"][5, 0, 0] &= ~1
    target_row(args, 5, 0)[0] = torch.nan
    found = same_decisions(compiled, case, args)
    assert found["logprobs"][5, 0].isnan()
    assert masked or found["status"][5] != 1
    for b, i in itertools.product(range(5), range(3)):
        token = int(found["tokens"][b, i])
        if token >= 0:
            expected = args["target_logits"][b, i].double().log_softmax(-1)[token]
            assert found["logprobs"][b, i].item() == pytest.approx(expected.item(), abs=1e-5)


# ---- the same requests, arranged otherwise ------------------------------------------------------

ARRANGED = [
    Case("verify", batch=9, slots=3, vocab=vocab, rule=rule, sampling=sampling, masked=True,
         extras=True, dtype=dtype, **layout)
    for vocab, dtype, sampling in ((5, torch.float32, "mixed"), (3000, torch.bfloat16, "all"))
    for rule in RULES
    for layout in ({"ragged": True, "draft_vocab": True}, {"rows": True}, {"drafts": "one_hot"})
]  # fmt: skip
INTERPRETED = ARRANGED[1::5]  # every rule, layout and vocabulary
arranged = pytest.mark.parametrize(
    "case", [interpreted_if(case in INTERPRETED, case) for case in ARRANGED],
    ids=lambda case: case.name,
)  # fmt: skip


def results(backend: str, args: dict) -> dict:
    """What is said of each request, and its position."""
    written = raw.run(raw.caller(backend), "verify", args)
    position, rows = written.pop("position"), args["rows"]
    if rows is not None:
        known = (rows >= 0) & (rows < len(position))
        position = torch.where(known, position[torch.where(known, rows, 0)], 0)
    return {**written, "position": position}


def same_as_part(backend: str, args: dict, index: torch.Tensor, whole: dict, context: str) -> None:
    found = results(backend, take(args, index))
    raw.same(found, {name: value[index] for name, value in whole.items()}, context)


@arranged
@pytest.mark.sliced(4)
def test_order_and_parts_of_the_batch(compiled, case):
    case = affordable(compiled, case, 6)
    args = spoil(case.inputs())
    whole = results(compiled, args)
    order = torch.randperm(case.batch, generator=torch.Generator().manual_seed(3))
    same_as_part(compiled, args, order, whole, "permuted")
    for part in order.split(4):
        same_as_part(compiled, args, part, whole, "split")
    for b in range(case.batch):
        same_as_part(compiled, args, torch.tensor([b]), whole, f"request {b} alone")


@arranged
@pytest.mark.sliced(4)
def test_dead_rows_beside(compiled, case):
    case = affordable(compiled, case, 6)
    args = spoil(case.inputs())
    whole = results(compiled, args)
    index = torch.arange(case.batch).repeat_interleave(2)
    padded = take(args, index)
    if padded["rows"] is not None:
        padded["rows"][1::2] = -1
    else:
        padded["live"][1::2] = False
    found = results(compiled, padded)
    raw.same({k: v[::2] for k, v in found.items()}, whole, "padded")
    nothing = {"tokens": -1, "num_emitted": 0, "last_token": 0, "status": 0, "overlap": -1.0,
               "logprobs": 0.0, "accept_prob": -1.0, "num_accepted": 0}  # fmt: skip
    assert set(nothing) < set(OF_REQUEST)
    for name, value in nothing.items():
        assert (found[name][1::2] == value).all(), name


@arranged
@pytest.mark.sliced(4)
def test_threads(native, case):
    args = spoil(case.inputs())
    for index in (torch.arange(case.batch), torch.arange(2)):  # requests shared out, and rows
        part = take(args, index)
        one = results(native, part)
        torch.set_num_threads(2)
        raw.same(results(native, part), one, "two threads")
        torch.set_num_threads(1)
