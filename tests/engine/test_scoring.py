"""What drafters say of tokens they did not draft is what they would have said while drafting."""

from __future__ import annotations

import pytest
import torch

from tapout_engine import Controller, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.huggingface import HFModel
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.models.weights import decoder_of

from .conftest import tiny_llama
from .heads import VOCAB, guessable_llama, guessing, prompts
from .test_traces import llama_setup

TEXTS = prompts(3, 9, 1, 30)
ROUNDS = (  # new tokens of each row; drafts asked for before
    ([[5, 6, 7], [8], [9, 10], []], 3),
    ([[11], [12, 13, 14, 15], [16], [17]], 0),
    ([[18], [19], [20], [21, 22]], 1),
)


@pytest.fixture(scope="module")
def model():
    return guessable_llama()


class Pair:
    """A drafter, and the target that a head needs beside it."""

    def __init__(self, kind: str, model):
        self.target = None
        if kind == "toy":
            self.drafter = ToyLM(VOCAB)
        elif kind == "huggingface":
            self.drafter = HFModel(model)
        elif kind == "static":
            self.drafter = StaticModel(decoder_of(model))
        else:
            self.target = StaticModel(decoder_of(model))
            ids = torch.arange(0, VOCAB, 2) if kind == "head, half a vocabulary" else None
            self.drafter = HeadDrafter(guessing(self.target.decoder, ids), self.target)

    def prefill(self, texts) -> None:
        if self.target is not None:
            self.target.prefill(texts)
        self.drafter.prefill(texts)

    def follow(self, last: list[int], new: list[list[int]]) -> None:
        """The target reads new tokens, and what it might have been given beyond them."""
        if self.target is not None:
            width = max(map(len, new)) + 2
            rows = [[*row, *[1] * (width - len(row))] for row in new]
            self.target.forward(torch.tensor([[a, *b[:-1]] for a, b in zip(last, rows)]))  # noqa: B905
            self.target.commit(new)

    def draft(self, last: list[int], steps: int) -> None:
        token = torch.tensor(last)
        for _ in range(steps):
            self.drafter.step(token)
            token = torch.full_like(token, 4)


@torch.no_grad()
def alone(kind: str, model, text: list[int], end: int) -> torch.Tensor:
    """Logits after ``text[:end]``, of a drafter that begins there."""
    pair = Pair(kind, model)
    if pair.target is not None:
        pair.target.prefill([text])
    pair.drafter.prefill([text[:end]])
    return pair.drafter.step(torch.tensor([text[end - 1]]))[0]


KINDS = ["toy", "static", "huggingface", "head", "head, half a vocabulary"]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_first_step_of_every_place(kind, model):
    pair, texts = Pair(kind, model), [list(text) for text in TEXTS]
    pair.prefill(texts)
    for new, steps in ROUNDS:
        last = [text[-1] for text in texts]
        pair.draft(last, steps)
        pair.follow(last, new)
        said = pair.drafter.score(new)
        assert said.shape[:2] == (4, max(map(len, new)))
        for row, (text, tokens) in enumerate(zip(texts, new, strict=True)):
            for place in range(len(tokens)):
                expected = alone(kind, model, text + tokens, len(text) + place)
                # float32 sums of another order
                assert torch.allclose(said[row, place], expected, rtol=1e-4, atol=1e-4)
        texts = [text + tokens for text, tokens in zip(texts, new, strict=True)]
    after = pair.drafter.step(torch.tensor([text[-1] for text in texts]))
    for row, text in enumerate(texts):
        assert torch.allclose(
            after[row], alone(kind, model, text, len(text)), rtol=1e-4, atol=1e-4
        ), "it drafts on as if it had been told by commit"


def test_lookup_says_what_it_would_propose_first_at_every_place():
    drafter, other = PromptLookupDrafter(9), PromptLookupDrafter(9)
    texts, new = [[1, 2, 3, 1], [5], [7, 7]], [[2, 3, 1, 4], [], [7, 8]]
    drafter.prefill(texts)
    said = drafter.score(new)
    assert said.shape == (3, 4)
    for row, (text, tokens) in enumerate(zip(texts, new, strict=True)):
        for place in range(len(tokens)):
            other.prefill([text + tokens[:place]])
            assert said[row, place] == other.propose(1)[0, 0]
    assert said[0].tolist() == [2, 3, 1, 2]
    other.prefill([text + tokens for text, tokens in zip(texts, new, strict=True)])
    assert torch.equal(drafter.propose(3), other.propose(3))


def test_rows_may_reach_the_last_position():
    """Of 48, beside rows that have ended there and are fed padding."""
    target = StaticModel(decoder_of(tiny_llama(seed=1, layers=2, positions=48)))
    drafters = {
        "head": HeadDrafter(guessing(target.decoder), target),
        "self": StaticModel(target.decoder.without([1])), "lookup": PromptLookupDrafter(VOCAB),
    }  # fmt: skip
    table = tuple(("fixed_length", {"n": 4}, (name,)) for name in drafters)
    decoder = SpeculativeDecoder(target, drafters, Controller(table, 4, "hedge"))
    asked = [Request(text, 99) for text in prompts(40, 5, 46, 1)]
    results = decoder.generate(asked)
    assert [r.tokens for r in results] == [r.tokens for r in PlainDecoder(target).generate(asked)]
    assert [len(r.tokens) for r in results] == [8, 43, 2, 47]


@pytest.mark.parametrize("policy", ["hedge", "normalhedge"])
def test_a_language_model_its_head_and_lookup(policy):
    """Greedy batches equal plain decoding, and the worst of the three is left alone."""
    target, drafters = llama_setup()
    table = tuple(("fixed_length", {"n": 3}, (name,)) for name in drafters)
    settings = {"epsilon": 0.0} if policy == "normalhedge" else {}
    decoder = SpeculativeDecoder(target, drafters, Controller(table, 4, policy, **settings))
    asked = [Request(text, 60 + 9 * i) for i, text in enumerate(prompts(5, 20, 1))]
    results = decoder.generate(asked)
    assert [r.tokens for r in results] == [r.tokens for r in PlainDecoder(target).generate(asked)]
    values = [arm.value for arm in decoder.controller.report()]
    late = [arm for result in results for arm in result.arms[-5:]]
    assert late.count(min(range(3), key=values.__getitem__)) < len(late) / 4
