"""The ``bench`` command: loops side by side, and what their rounds are made of."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from tapout_engine import Controller, Request, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.cli import main
from tapout_engine.graph_loop import GraphDecoder
from tapout_engine.models.weights import decoder_of
from tapout_engine.profiling import Work, profile_rounds, work_of

from .conftest import tiny_llama
from .heads import guessable_llama, guessing, prompts


def lines(text: str) -> dict[str, list[str]]:
    """The cells of tables by their first one; of the last table where a row is in several."""
    return {cells[0]: cells[1:] for cells in map(str.split, text.splitlines()) if cells}


def test_loops_are_compared_and_profiled(model_dir, tmp_path, capsys):
    code = main([
        "bench", "--target", str(model_dir), "--batch", "2", "--slots", "3",
        "--max-new-tokens", "12", "--profile", str(tmp_path / "made"),
    ])  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    speeds, profiles = printed.split("syncs")
    assert [cells[-1] for name, cells in lines(speeds).items() if name in ("ordinary", "eager",
            "checked")] == ["yes"] * 3  # fmt: skip
    found = lines(profiles)
    assert {"ordinary", "eager", "checked"} <= set(found)
    assert "replay" not in found
    assert found["eager"][1:3] == ["3.00", "4.00"]  # K steps and the verification
    assert found["eager"][5] == "0.00"
    assert float(found["ordinary"][5]) >= 2
    for loop in ("ordinary", "eager", "checked"):
        events = json.loads((tmp_path / f"made/{loop}.json").read_text())["traceEvents"]
        rounds = [event for event in events if event.get("name") == "round"]
        assert len(rounds) == int(found[loop][0])


def test_events_of_a_gpu_are_told_apart():
    def event(name: str, parent=None, device=DeviceType.CPU) -> SimpleNamespace:
        return SimpleNamespace(name=name, cpu_parent=parent, device_type=device)

    whole = event("round")
    linear = event("aten::linear", whole)
    matmul = event("aten::addmm", linear)
    events = [
        whole, linear, matmul, event("cudaLaunchKernel", matmul), event("cudaGraphLaunch", whole),
        event("cudaMemcpyAsync"), event("cudaStreamSynchronize", whole),
        event("cudaEventSynchronize"), event("sgemm", device=DeviceType.CUDA),
        event("Memcpy DtoH", device=DeviceType.CUDA), event("round", device=DeviceType.CUDA),
    ]  # fmt: skip
    assert work_of(events) == Work(kernels=2, operators=3, launches=2, waits=1)


@pytest.mark.parametrize("kind", ["model", "head"])
def test_forwards_are_those_that_were_made(kind, tmp_path):
    """A loop of graphs is asked for its steps; where Python makes the forwards they are counted."""
    target = StaticModel(decoder_of(guessable_llama()).pack())
    if kind == "head":
        drafter = HeadDrafter(guessing(target.decoder).pack(), target)
    else:
        drafter = StaticModel(decoder_of(tiny_llama(seed=1, layers=2)).pack())
    arms = (("fixed_length", {"n": 0}), ("fixed_length", {"n": 2}))
    requests = [Request(prompt, 14) for prompt in prompts(5)]
    decoder = GraphDecoder(target, drafter, Controller(arms, slots=3), mode="checked")
    decoder.generate(requests)
    calls, launch = [], decoder.runner.launch
    modules = (target.decoder, getattr(drafter, "head", None) or drafter.decoder)
    handles = [module.register_forward_pre_hook(lambda *_: calls.append(1)) for module in modules]
    made = []

    def watched() -> None:
        before = len(calls)
        launch()
        made.append(len(calls) - before)

    decoder.runner.launch = watched
    decoder.generate(requests)
    for handle in handles:
        handle.remove()
    assert {0, 2} <= set(decoder.steps)
    assert made == [decoder.round.forwards(steps) for steps in decoder.steps]
    ordinary = SpeculativeDecoder(target, drafter, Controller(arms, slots=3))
    profile = profile_rounds(ordinary, requests, tmp_path / "ordinary.json")
    assert profile.forwards == 1 + profile.steps
    assert 0 < profile.steps < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--loops", "eager,fast"), "loops: expected some of ordinary, .* got 'fast'"),
     (("--loops", "graph"), "mode: graph needs a GPU, got cpu"),
     (("--draft", "prompt-lookup"), "must have a static cache, got PromptLookupDrafter")],
)  # fmt: skip
def test_what_cannot_run_is_refused(model_dir, capsys, arguments, message):
    assert main(["bench", "--target", str(model_dir), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
