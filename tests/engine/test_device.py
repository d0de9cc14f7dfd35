"""Where a session computes: on the CPU unless told otherwise, all of it in one place."""

from __future__ import annotations

import pytest

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.loading import load
from tapout_engine.session import Session

from .conftest import run_python

PROMPTS = ([5, 9, 12, 5, 9], [30, 31], [7] * 9)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_named(model_dir, device):
    with pytest.raises(EngineError, match=f"device: {device} cannot be used: "):
        load(str(model_dir), device=device)


def test_the_command_says_so_too(model_dir):
    result = run_python(
        "-m", "tapout_engine", "generate", "--target", model_dir, "--prompt", "a",
        "--device", "cuda:99",
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("tapout_engine: error: device: cuda:99 cannot be used: ")


@pytest.mark.gpu
@pytest.mark.parametrize("draft", ["auto", "self", "prompt-lookup"])
def test_a_gpu_decodes_greedily_as_it_does_plainly(model_dir, draft):
    session = Session(str(model_dir), device="cuda")
    assert session.target.device.type == "cuda"
    requests = [Request(prompt, 40) for prompt in PROMPTS]
    plain = [result.tokens for result in PlainDecoder(session.target).generate(requests)]
    drafter = session.drafter(draft)
    controller = Controller(drafter.arms, 4, reward=drafter.reward, device="cuda")
    results = SpeculativeDecoder(session.target, drafter.drafter, controller).generate(requests)
    assert [result.tokens for result in results] == plain
    assert sum(sum(result.accepted) for result in results) > 0
