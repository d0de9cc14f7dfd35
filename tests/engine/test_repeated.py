"""Rounds whose kernels are called again without Python are the rounds that Python would call."""

from __future__ import annotations

import pytest
import torch

import tapout_kernels as tk
from tapout_engine import (
    Controller,
    DepthController,
    PlainDecoder,
    Request,
    SpeculativeDecoder,
    TreeDecoder,
)
from tapout_engine import repeated as repeated_module
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.arms import DRAFTER_ARMS, HEAD_ARMS, TAPOUT_ARMS
from tapout_engine.models.forwards import MOST, Forwards
from tapout_engine.models.weights import decoder_of
from tapout_engine.repeated import Repeated

from .heads import VOCAB, guessable_llama, guessing, prompts

TWO = {"arms": DRAFTER_ARMS, "reward": "throughput"}
ROUNDS = {
    "a head": {"arms": HEAD_ARMS, "reward": "throughput"},
    "TapOut's arms": {"arms": TAPOUT_ARMS},
    "overlap": {"arms": TAPOUT_ARMS, "policy": "metasd", "reward": "overlap"},
    "hedge": {"arms": TAPOUT_ARMS, "policy": "hedge"},
    "two drafters": TWO,
    "two drafters, Thompson": {**TWO, "policy": "thompson_gaussian"},
}


@pytest.fixture(scope="module")
def decoder():
    return decoder_of(guessable_llama()).pack()


@pytest.fixture
def nothing_again(monkeypatch):
    """Every forward and every kernel is called by Python."""

    monkeypatch.setattr(repeated_module, "recording_unavailable", lambda *_: "a test")


def requests(temperature: float) -> list[Request]:
    lengths = zip(prompts(9, 1, 90), (70, 50, 20), strict=True)
    return [
        Request(prompt, new, temperature=temperature, seed=i)
        for i, (prompt, new) in enumerate(lengths)
    ]


def decoding(decoder, rule, arms, **settings) -> SpeculativeDecoder:
    target = StaticModel(decoder)
    head = HeadDrafter(guessing(decoder).pack(), target)
    both = {"draft": head, "prompt-lookup": PromptLookupDrafter(VOCAB)}
    drafter = both if arms is DRAFTER_ARMS else head
    controller = Controller(arms, 4, **settings)
    return SpeculativeDecoder(target, drafter, controller, rule=rule)


def story(decoding: SpeculativeDecoder, temperature: float) -> list[object]:
    """What two batches did, the second with a bandit that has learned."""
    rows = [r for _ in range(2) for r in decoding.generate(requests(temperature))]
    return [
        [(r.tokens, r.accepted, r.drafted, r.arms, r.stop_reasons) for r in rows],
        decoding.controller.report(),
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("rule", ["token", "block", "gumbel"])
@pytest.mark.parametrize("name", ROUNDS)
def test_rounds_again_are_rounds_anew(decoder, name, rule, temperature, request):
    again = decoding(decoder, rule, **ROUNDS[name])
    found = story(again, temperature)
    assert 3 < len(again.repeated._of) < 40
    request.getfixturevalue("nothing_again")
    anew = decoding(decoder, rule, **ROUNDS[name])
    assert found == story(anew, temperature)
    assert not anew.repeated._of


TREES = {  # shape, whether children are drawn, whether a bandit says how deep
    "eagle2": (tk.TreeShape.dynamic(depth=4, top_k=3, nodes=12), False, False),
    "wide": (tk.TreeShape.dynamic(depth=4, top_k=12, nodes=20), False, False),  # masks of two words
    "bandit": (tk.TreeShape.dynamic(depth=5, top_k=2, nodes=8), False, True),
    "drawn": (tk.TreeShape.static([-1, -1, -1, 0, 0, 1, 3]), True, False),
}


def growing(decoder, name: str, rule: str) -> TreeDecoder:
    shape, drawn, learns = TREES[name]
    target = StaticModel(decoder)
    head = HeadDrafter(guessing(decoder).pack(), target)
    controller = DepthController(depth=shape.depth) if learns else None
    return TreeDecoder(target, head, shape, None, rule, drawn, controller=controller)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, "token") for name in TREES] + [("eagle2", "gumbel"), ("drawn", "block")],
)
def test_trees_again_are_trees_anew(decoder, name, rule, temperature, request):
    def story(decoding: TreeDecoder) -> list[object]:
        rows = [r for _ in range(2) for r in decoding.generate(requests(temperature))]
        return [(r.tokens, r.accepted, r.drafted, r.arms) for r in rows]

    again = growing(decoder, name, rule)
    found = story(again)
    assert 4 < len(again.repeated._of) < 12
    assert len(again.target.forwards.repeated._of) == 1
    assert len(again.drafter.forwards.repeated._of) > 3
    assert sum(sum(accepted) for _, accepted, *_ in found) > 10
    request.getfixturevalue("nothing_again")
    anew = growing(decoder, name, rule)
    assert found == story(anew)
    assert not anew.repeated._of
    assert anew.drafter.forwards is None


@torch.no_grad()
def test_two_shapes_share_a_drafter(decoder):
    """Levels of one width after as many nodes, but of other parents, in turn."""
    target = StaticModel(decoder)
    head = HeadDrafter(guessing(decoder).pack(), target)
    expected = [r.tokens for r in PlainDecoder(StaticModel(decoder)).generate(prompts_of(3))]
    for _ in range(2):
        for parents in ([-1, -1, 0, 1, 2, 3], [-1, 0, 1, 1, 2, 3], [-1, -1, -1, 0, 1]):
            decoding = TreeDecoder(target, head, tk.TreeShape.static(parents))
            assert [r.tokens for r in decoding.generate(prompts_of(3))] == expected


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_plain_rounds_again_are_rounds_anew(decoder, temperature, request):
    again = PlainDecoder(StaticModel(decoder))
    found = [result.tokens for result in again.generate(requests(temperature))]
    assert len(again.repeated._of) == 1
    assert again.target.forwards.repeated._of
    request.getfixturevalue("nothing_again")
    anew = PlainDecoder(StaticModel(decoder))
    assert found == [result.tokens for result in anew.generate(requests(temperature))]
    assert anew.target.forwards is None


def steps(seed: int) -> list[tuple[list[list[int]], list[int]]]:
    """Tokens for rows of their own length, some of them none; and after how many logits are asked
    for. Caches grow meanwhile, and one forward is too long to be recorded."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 0, 5), (1, 1, 1), (0, 2, 0), (MOST, 4, 9), (1, 1, 1), (3, 0, 5), (20, 30, 10)]
    found = []
    for counts in sizes * 2:
        rows = [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in counts]
        found.append((rows, [min(n, 2) for n in counts]))
    return found


@torch.no_grad()
def test_forwards_are_the_decoders_and_keep_its_states(decoder):
    cache, other = decoder.cache(3, 64), decoder.cache(3, 256)
    forwards, past = Forwards(decoder, cache), [0, 0, 0]
    for rows, wanted in steps(1):
        ends = [at + len(row) for at, row in zip(past, rows, strict=True)]
        cache.hold(max(ends))
        states = torch.zeros(3, cache.slots, decoder.embedding.shape[1])
        logits = forwards(rows, past, wanted, states)
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        hidden = decoder(ids, torch.tensor(past), other, max(past) + width, counts=[
            len(row) for row in rows
        ])  # fmt: skip
        last = [
            own[len(row) - n : len(row)] for own, row, n in zip(hidden, rows, wanted, strict=True)
        ]
        assert torch.equal(logits, decoder.logits(torch.cat(last)))
        for own, row, kept, at in zip(hidden, rows, states, past, strict=True):
            assert torch.equal(kept[at : at + len(row)], own[: len(row)])
            assert not kept[:at].any()
            assert not kept[at + len(row) :].any()
        past = ends
    assert cache.slots > 64


def test_what_is_no_key_is_never_recorded():
    repeated, calls = Repeated("cpu"), []
    for _ in range(3):
        repeated(None, lambda: calls.append(1))
    for _ in range(3):
        repeated("key", lambda: calls.append(2))
    assert calls == [1, 1, 1, 2]
    repeated.forget()
    repeated("key", lambda: calls.append(3))
    off = Repeated("cpu", "reference")
    for _ in range(2):
        off("key", lambda: calls.append(4))
    assert calls == [1, 1, 1, 2, 3, 4, 4]


def test_inputs_are_kept_where_kernels_find_them():
    repeated, off = Repeated("cpu"), Repeated("cpu", "reference")
    first = repeated.kept("live", torch.tensor([True, False]))
    second = repeated.kept("live", torch.tensor([False, True]))
    assert first.data_ptr() == second.data_ptr()
    assert first.tolist() == [False, True]
    assert repeated.kept("another", first) is first
    assert repeated.kept("live", None) is None
    budget = repeated.tensor("budget", [3, 1], torch.int32)
    assert budget.dtype == torch.int32
    assert repeated.tensor("budget", [4, 2], torch.int32) is budget
    assert budget.tolist() == [4, 2]
    assert off.tensor("budget", [4, 2], torch.int32) is not off.tensor(
        "budget", [1, 2], torch.int32
    )
    value = torch.ones(2)
    assert off.kept("live", value) is value


@torch.no_grad()
def test_a_batch_of_shorter_prompts_has_the_memory_of_the_last(decoder):
    target = StaticModel(decoder)
    head = HeadDrafter(guessing(decoder).pack(), target)
    decoding = SpeculativeDecoder(target, head, Controller(HEAD_ARMS, 4, reward="throughput"))
    expected = [
        PlainDecoder(StaticModel(decoder)).generate(r) for r in (prompts_of(3), prompts_of(2))
    ]
    first = decoding.generate(prompts_of(3)), target.forwards, head.forwards
    again = decoding.generate(prompts_of(3)), target.forwards, head.forwards
    assert first[1:] == again[1:]
    fewer = decoding.generate(prompts_of(2)), target.forwards, head.forwards
    assert fewer[1] is not again[1]
    for found, plain in ((first, 0), (again, 0), (fewer, 1)):
        assert [r.tokens for r in found[0]] == [r.tokens for r in expected[plain]]


def prompts_of(count: int) -> list[Request]:
    return [Request(prompt, 30) for prompt in prompts(9, 1, 30)[:count]]
