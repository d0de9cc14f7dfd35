"""Rows change hands between rounds: a new request finds nothing of the old one."""

from __future__ import annotations

import importlib
from contextlib import nullcontext

import pytest
import torch

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState, SamplingParams, StopRules, StopState

RULES = StopRules("adaedl", ("fixed_length", {"n": 2}))


def round_of(rng: RngState, proposal: Proposal, state: StopState, logits: torch.Tensor, live=None):
    proposal.reset(rng, RULES, state, live=live)
    for slot in range(proposal.slots):
        tk.draft_step(logits[:, slot], proposal, None, rng, rules=RULES, state=state)
    verdict = tk.verify(logits, proposal, None, rng)
    bandit = tk.BanditState.create(len(RULES), slots=proposal.slots)
    tk.bandit_update(bandit, state.arm, proposal, verdict, rules=RULES, state=state)
    return verdict


def test_an_admitted_request_decodes_as_if_alone():
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    rng, proposal = RngState.of([1, 2], position=3), Proposal.empty(2, 3, 9)
    state = StopState.of(2, RULES)
    for _ in range(3):
        round_of(rng, proposal, state, logits)
    mask = torch.tensor([False, True])
    rng.reset_rows(mask, torch.tensor([0, 77]), torch.tensor([0, 20]))
    proposal.reset_rows(mask)
    state.reset_rows(mask)
    assert proposal.stop_reason.tolist()[1] == 4
    verdict = round_of(rng, proposal, state, logits)

    alone = RngState.of([77], position=20), Proposal.empty(1, 3, 9), StopState.of(1, RULES)
    expected = round_of(*alone, logits[1:])
    assert torch.equal(verdict.tokens[1:], expected.tokens)
    assert torch.equal(state.memory[1:], alone[2].memory)
    assert rng.round.tolist() == [4, 1]
    assert rng.seed.tolist() == [1, 77]


def test_reset_rows_clears_a_draft_in_the_making():
    rng, proposal = RngState.of([1, 2]), Proposal.empty(2, 3, 9)
    proposal.reset(rng)
    tk.draft_step(torch.zeros(2, 9), proposal, None, rng)
    proposal.reset_rows(torch.tensor([True, False]))
    assert proposal.active.tolist() == [False, True]
    assert proposal.num_active.tolist() == [1]
    assert proposal.tokens[0].tolist() == [-1, -1, -1]
    assert proposal.live.tolist() == [False, True]
    assert not proposal.stats[0].any()
    assert proposal.length.tolist() == [0, 1]


@pytest.mark.parametrize("thing", ["rng", "proposal", "state"])
@pytest.mark.parametrize("mask", [torch.ones(2), torch.ones(3, dtype=torch.bool), [True, False]])
def test_a_wrong_mask_writes_nothing(thing, mask):
    rng, proposal, state = RngState.of([1, 2]), Proposal.empty(2, 3), StopState.of(2, RULES)
    calls = {
        "rng": lambda: rng.reset_rows(mask, 0, 0),
        "proposal": lambda: proposal.reset_rows(mask),
        "state": lambda: state.reset_rows(mask),
    }
    with pytest.raises((TypeError, ValueError), match=r"reset_rows: mask must be"):
        calls[thing]()
    assert rng.seed.tolist() == [1, 2]


def test_seeds_and_positions_are_whole_numbers():
    rng = RngState.of([1, 2])
    mask = torch.ones(2, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"RngState\.reset_rows: seed must be int64"):
        rng.reset_rows(mask, torch.zeros(2), 0)
    with pytest.raises(TypeError, match=r"RngState\.reset_rows: seed must be int64, got float"):
        rng.reset_rows(mask, 9.0, 0)
    assert rng.seed.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"RngState.reset_rows: position must be \[2\]"):
        rng.reset_rows(mask, 0, torch.zeros(3, dtype=torch.int64))


def test_warmup_runs_every_operator_and_touches_nothing_else(monkeypatch):
    called = set()
    for module in ("ops.verify", "ops.draft_step", "ops.sample", "ops.row_stats", "proposal",
                   "ops.bandit_select", "ops.bandit_update", "ops.bandit_step"):  # fmt: skip
        target = __import__(f"tapout_kernels.{module}", fromlist=["call"])
        original = target.call
        monkeypatch.setattr(
            target, "call", lambda op, *a, _o=original, **k: (called.add(op), _o(op, *a, **k))
        )
    ready = tk.warmup("cpu", vocab=50, dtype=torch.bfloat16, slots=2, batch_sizes=[1, 3])
    trees = {op for op in tk._schema.SCHEMAS if op.startswith("tree_")} | {"compact_kv"}
    assert called == set(tk._schema.SCHEMAS) - trees
    assert "verify gumbel, batch 3: cpu" in ready
    assert len(set(ready)) == len(ready) == 2 * (3 * 4 + 6)


def test_warmup_covers_each_stream_and_kind_of_call(monkeypatch):
    """Every stream has a workspace of its own; masks, one-hot drafts, ragged rows are kernels."""
    seen = []
    streams = [nullcontext(), nullcontext()]
    module = importlib.import_module("tapout_kernels.warmup")
    monkeypatch.setattr(module, "_streams", lambda _: streams)
    for name in ("verify", "draft_step"):
        target = importlib.import_module(f"tapout_kernels.ops.{name}")
        original = target.call

        def record(op, *args, _original=original, **kwargs):
            seen.append((op, kwargs))
            _original(op, *args, **kwargs)

        monkeypatch.setattr(target, "call", record)
    ready = tk.warmup("cpu", 50, torch.float32, slots=2, batch_sizes=[3], rule="gumbel")
    assert [line for line in ready if "verify" in line] == ["verify gumbel, batch 3: cpu"]
    given = ("top_p", "token_mask", "row_start", "draft_logits", "kept_logits")
    kinds = [(op, *(k.get(name) is not None for name in given)) for op, k in seen]
    assert len(set(kinds)) == 2 * 2 * 3, "two operators, with parameters or without, three forms"
    assert all(kinds.count(kind) == len(streams) for kind in kinds)
    assert {k["rule"] for _, k in seen} == {2}


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ({"vocab": 0}, ValueError),
        ({"dtype": torch.float64}, TypeError),
        ({"rule": "x"}, ValueError),
    ],
)
def test_warmup_refuses_what_no_operator_takes(sizes, error):
    given = {"vocab": 50, "dtype": torch.float32, "slots": 2, "batch_sizes": [1], **sizes}
    with pytest.raises(error, match=" must be "):
        tk.warmup("cpu", **given)


def test_sampling_parameters_of_every_kind_are_kept():
    params = SamplingParams.of(2, 0.5, 3, 0.9, 0.1)
    assert [float(x[0]) for x in params.arguments().values()] == pytest.approx([0.5, 3, 0.9, 0.1])
