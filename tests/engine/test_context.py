"""The end of a model's context: requests end there, and nothing raises after generating."""

from __future__ import annotations

import pytest

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.huggingface import HFModel
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM

from .conftest import tiny_llama

FIXED_5 = (("fixed_length", {"n": 5}),)
PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]


class ShortToy(ToyLM):
    """Refuses what is beyond its context in any row, so only for rows of equal length."""

    def __init__(self, max_length: int | None, **settings):
        super().__init__(**settings)
        self.max_length = max_length

    def forward(self, input_ids):
        logits = super().forward(input_ids)
        longest = max(len(row.cached) for row in self._rows)
        assert self.max_length is None or longest <= self.max_length
        return logits


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("drafter_limit", [None, 24, 12])
@pytest.mark.parametrize("limit", [9, 10, 24, 29])
def test_a_request_ends_where_the_target_can_read_no_more(
    limit, drafter_limit, temperature, early_exit
):
    drafter = ShortToy(drafter_limit, noise=0.3)
    decoder = SpeculativeDecoder(
        ShortToy(limit), drafter, Controller(FIXED_5, slots=5), early_exit=early_exit
    )
    free = SpeculativeDecoder(ToyLM(), ToyLM(noise=0.3), Controller(FIXED_5, slots=5))
    request = Request(PROMPT, 40, temperature)
    result, expected = decoder.generate([request])[0], free.generate([request])[0]
    assert result.finish_reason == "length"
    assert len(PROMPT) + len(result.tokens) == limit
    assert sum(result.drafted) > 0 or limit < 11
    if temperature == 0:
        assert result.tokens == expected.tokens[: len(result.tokens)]


@pytest.mark.parametrize("drafter_limit", [None, 20])
def test_early_exit_changes_no_token_near_the_limit(drafter_limit):
    def run(early_exit: bool):
        decoder = SpeculativeDecoder(
            ShortToy(33), ShortToy(drafter_limit, noise=0.6), Controller(), early_exit=early_exit
        )
        return decoder.generate([Request(PROMPT, 99, 1.0)])[0]

    assert run(True).tokens == run(False).tokens
    assert run(True).drafted == run(False).drafted


def test_the_drafter_stops_at_its_own_limit_and_decoding_goes_on():
    decoder = SpeculativeDecoder(ToyLM(), ShortToy(20), Controller(FIXED_5, slots=5))
    result = decoder.generate([Request(PROMPT, 30)])[0]
    assert result.tokens == PlainDecoder(ToyLM()).generate([Request(PROMPT, 30)])[0].tokens
    assert result.drafted[:2] == [5, 5]
    # 20 tokens are confirmed then: the drafter reads the last one and makes one more draft.
    assert result.drafted[2] == 1
    assert set(result.drafted[3:]) == {0}


def test_rows_of_a_batch_end_at_the_limit_each():
    target = ToyLM()
    target.max_length = 20
    prompts = [[1], [2] * 10, [3] * 19]
    batch = [Request(prompt, 15) for prompt in prompts]
    results = SpeculativeDecoder(target, ToyLM(noise=0.3), Controller()).generate(batch)
    plain = PlainDecoder(target).generate(batch)
    assert [len(result.tokens) for result in results] == [15, 10, 1]
    assert [result.tokens for result in results] == [result.tokens for result in plain]


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("kind", ["same", "short", "lookup"])
def test_hugging_face_models_end_at_their_last_position(kind, early_exit):
    target = HFModel(tiny_llama(seed=1, positions=32))
    drafter = {
        "same": lambda: HFModel(tiny_llama(seed=1, perturb=0.05, positions=32)),
        "short": lambda: HFModel(tiny_llama(seed=1, positions=16)),
        "lookup": lambda: PromptLookupDrafter(96),
    }[kind]()
    request = Request(PROMPT, 100)
    plain = PlainDecoder(target).generate([request])[0]
    assert (len(PROMPT) + len(plain.tokens), plain.finish_reason) == (32, "length")
    decoder = SpeculativeDecoder(
        target, drafter, Controller(FIXED_5, slots=5), early_exit=early_exit
    )
    result = decoder.generate([request])[0]
    assert (result.tokens, result.finish_reason) == (plain.tokens, "length")


@pytest.mark.parametrize("short", ["target", "drafter"])
def test_a_prompt_that_fills_the_context_is_refused(short):
    target = ShortToy(8 if short == "target" else None)
    drafter = ShortToy(8 if short == "drafter" else None)
    decoder = SpeculativeDecoder(target, drafter, Controller())
    with pytest.raises(EngineError, match="shorter than the 8 tokens that the model can read"):
        decoder.generate([Request(PROMPT, 5)])
    assert decoder.generate([Request(PROMPT[1:], 1)])[0].finish_reason == "length"
