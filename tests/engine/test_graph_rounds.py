"""What a round that asks no host may touch, what it must not ask, and who runs it."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tapout_engine import Controller, EngineError
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.graph_loop import GraphDecoder, runners

from .graph_loops import ARMS, draft_model, requests, target_model
from .heads import guessing

ASKING = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__",
          "nonzero", "masked_select", "unique", "__contains__"}  # fmt: skip


@pytest.fixture(scope="module")
def target():
    return target_model()


@pytest.fixture(scope="module")
def draft():
    return draft_model()


class NoAnswer(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert getattr(function, "__name__", "") not in ASKING, f"{function} reads a tensor"
        return function(*args, **(kwargs or {}))


class NoRead(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        reads = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal",
                 "_unique2", "repeat_interleave.Tensor")  # fmt: skip
        assert not any(name.startswith(f"aten::{read}") for read in reads), f"{name} reads a tensor"
        return function(*args, **(kwargs or {}))


def test_a_round_reads_no_tensor(target, draft):
    batch = requests(0.8, top_p=0.9)
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=4, capacity=80)
    decoder._prepare(batch)
    launch, seen = decoder.runner.launch, []

    def watched() -> None:
        with NoAnswer(), NoRead():
            launch()
        seen.append(0)

    decoder.runner.launch = watched
    results = decoder.generate(batch)
    assert len(seen) == max(result.rounds for result in results) + 1  # the last for nobody


def test_the_watch_sees_a_read(target, draft):
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), mode="checked")
    decoder._prepare(requests())
    for watch in (NoAnswer, NoRead):
        with pytest.raises(AssertionError, match="reads a tensor"), watch():
            decoder.runner.launch()


def test_a_row_that_is_not_live_keeps_every_value(target, draft):
    batch = requests(lengths=(30, 9), new=20)
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=2, capacity=64)
    decoder.generate(batch)
    state, memory, bandit = decoder.state, decoder.controller.state, decoder.controller.bandit
    held = {
        "live": state.live, "seed": state.rng.seed, "round": state.rng.round,
        "position": state.rng.position, "recent": state.recent, "left": state.left,
        "memory": memory.memory, "calls": bandit.calls, "count": bandit.count,
        "cost": bandit.cost,
    }  # fmt: skip
    for follower in (decoder.round.target, decoder.round.drafter.follower):
        for row, length in enumerate(state.rng.position.tolist()):
            held[f"{id(follower)}, {row}"] = follower.cache.entries[:, :, row, :, : length - 2]
    before = {name: value.clone() for name, value in held.items()}
    assert not state.live.any()
    with torch.no_grad():
        for _ in range(3):
            decoder.runner.launch()
    for name, value in held.items():
        assert torch.equal(value, before[name]), name


def test_memory_stays_where_it_is_and_is_made_anew_only_for_another_need(target, draft):
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=2)
    decoder.generate(requests())
    runner, place = decoder.runner, decoder.round.logits.data_ptr()
    decoder.generate(requests(0.5, eos=(3,)))
    assert decoder.runner is runner
    assert decoder.round.logits.data_ptr() == place
    decoder.generate(requests(0.5, top_k=4))
    assert decoder.runner is not runner
    assert decoder.state.filters == {"top_k"}
    runner = decoder.runner
    decoder.generate(requests(0.5))
    assert decoder.runner is runner
    decoder.controller.reset()
    decoder.generate(requests(0.5))
    assert decoder.runner is not runner
    assert decoder.state.filters == {"top_k"}


# ---- choosing a mode -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "reason", "mode"),
    [("cpu", "no driver", "eager"), ("cuda", "driver 12.2", "replay"), ("cuda", None, "graph")],
)
def test_auto_takes_what_the_device_can_do(monkeypatch, device, reason, mode):
    monkeypatch.setattr(runners, "graphs_unavailable", lambda: reason)
    assert runners.chosen_mode("auto", torch.device(device)) == mode
    assert runners.chosen_mode("checked", torch.device(device)) == "checked"


@pytest.mark.parametrize(
    ("mode", "device", "message"),
    [("fast", "cpu", "mode: expected one of auto, .* got 'fast'"),
     ("replay", "cpu", "mode: replay needs a GPU, got cpu"),
     ("graph", "cuda", "mode: graph is not there: driver 12.2")],
)  # fmt: skip
def test_a_mode_that_cannot_run_is_refused(monkeypatch, mode, device, message):
    monkeypatch.setattr(runners, "graphs_unavailable", lambda: "driver 12.2")
    with pytest.raises(EngineError, match=message):
        runners.chosen_mode(mode, torch.device(device))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"drafter": ToyLM(96)}, "drafter must have a static cache, got ToyLM"),
     ({"widths": (2, 9)}, r"widths: expected drafts of \[0, 4\], got \[2, 9\]"),
     ({"controller": Controller((("svip", {}, ("lookup",)),), slots=4)}, "drafters must be among")],
)  # fmt: skip
def test_what_cannot_be_decoded_is_refused(target, draft, changes, message):
    arguments = {"drafter": draft, "controller": Controller(slots=4)} | changes
    with pytest.raises(EngineError, match=message):
        GraphDecoder(target, **arguments)


def test_a_head_of_another_target_is_refused(target, draft):
    head = HeadDrafter(guessing(draft.decoder), draft)
    with pytest.raises(EngineError, match="drafter must be a head of target"):
        GraphDecoder(target, head, Controller(slots=4))


def test_prompts_beyond_the_capacity_are_refused(target, draft):
    decoder = GraphDecoder(target, draft, Controller(slots=4), capacity=16)
    with pytest.raises(EngineError, match="prompt must be shorter than the 16 tokens"):
        decoder.generate(requests(lengths=(16,)))
