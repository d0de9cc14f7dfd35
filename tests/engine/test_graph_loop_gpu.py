"""What only a GPU shows of the graph loop: captured rounds, no wait, memory that does not grow."""

from __future__ import annotations

import pytest
import torch

from tapout_engine import Controller, PlainDecoder, Request
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.graph_loop import GraphDecoder
from tapout_engine.graph_loop.runners import graphs_unavailable
from tapout_engine.models.weights import decoder_of

from .conftest import tiny_llama
from .heads import guessable_llama, guessing

pytestmark = pytest.mark.gpu
ARMS = (
    ("fixed_length", {"n": 0}), ("fixed_length", {"n": 3}), ("svip", {"threshold": 1.0}),
    ("adaedl", {}), ("max_confidence", {"threshold": 0.3}),
)  # fmt: skip


@pytest.fixture(scope="module")
def target():
    return StaticModel(decoder_of(tiny_llama(seed=1, layers=2).to("cuda")))


@pytest.fixture(scope="module")
def draft():
    return StaticModel(decoder_of(tiny_llama(seed=1, layers=2, perturb=0.15).to("cuda")))


def decoder(target, drafter, mode: str, rows: int = 4, **fields) -> GraphDecoder:
    controller = Controller(ARMS, slots=5, policy="thompson_gaussian", device="cuda")
    return GraphDecoder(target, drafter, controller, rows=rows, capacity=256, mode=mode, **fields)


def requests(count: int, temperature: float, new: int = 120) -> list[Request]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 60, (count,), generator=generator).tolist()
    return [
        Request(torch.randint(2, 96, (n,), generator=generator).tolist(), new - i, temperature,
                seed=i, eos=(3,) if i % 3 == 0 else ())
        for i, n in enumerate(lengths)
    ]  # fmt: skip


def facts(results) -> list[dict]:
    return [{name: value for name, value in result.to_dict().items() if name != "times"}
            for result in results]  # fmt: skip


def test_a_round_can_be_one_graph_here():
    assert graphs_unavailable() is None


@pytest.mark.parametrize(("captured", "called"), [("graph", "checked"), ("replay", "eager")])
@pytest.mark.parametrize("rule", ["token", "gumbel"])
def test_captured_rounds_are_those_of_the_same_functions(target, draft, captured, called, rule):
    """Lengths, arms and keys change from round to round, requests come and go."""
    batch = requests(24, 0.8)
    mine, theirs = (decoder(target, draft, mode, rule=rule) for mode in (captured, called))
    found, wanted = mine.generate(batch), theirs.generate(batch)
    assert facts(found) == facts(wanted)
    assert mine.steps == theirs.steps
    assert sum(result.rounds for result in found) > 900
    for name in ("calls", "count", "reward_sum"):
        assert torch.equal(getattr(mine.bandit, name), getattr(theirs.bandit, name))
    assert facts(mine.generate(batch[:6])) == facts(theirs.generate(batch[:6]))


@pytest.mark.parametrize("mode", ["graph", "replay", "eager", "checked"])
@pytest.mark.parametrize("kind", ["model", "head"])
def test_greedy_tokens_are_those_of_plain_decoding(target, draft, mode, kind):
    if kind == "head":
        target = StaticModel(decoder_of(guessable_llama().to("cuda")))
        draft = HeadDrafter(guessing(target.decoder), target)
    batch = requests(6, 0.0, new=40)
    plain = PlainDecoder(target).generate(batch)
    results = decoder(target, draft, mode, rows=3).generate(batch)
    assert [result.tokens for result in results] == [result.tokens for result in plain]
    assert sum(sum(result.accepted) for result in results) > 0


@pytest.mark.parametrize("mode", ["graph", "replay", "eager"])
def test_a_round_waits_for_nothing_and_keeps_no_memory(target, draft, mode):
    one = decoder(target, draft, mode)
    one.generate(requests(4, 0.8, new=20))
    torch.cuda.synchronize()
    used, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(300):
            one.runner.launch()
            one.ring.push()
            one.ring.clear()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == used
    assert torch.cuda.mem_get_info()[0] == free
