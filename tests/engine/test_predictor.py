"""Lengths that a caller predicts: what it is shown, who follows it, what is refused."""

from __future__ import annotations

import pytest
import torch

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.graph_loop import GraphDecoder
from tapout_engine.models.weights import decoder_of

from .heads import guessable_llama, prompts

PREDICTED = (("predicted_length", {}),)
LENGTHS = torch.tensor([0.0, 1.4, 2.5, 9.0, float("nan"), 3.0])  # by the last token
MEANT = (0, 1, 3, 4, 4, 3)  # halves up, at most K = 4; NaN is no prediction


@pytest.mark.parametrize("drafter", [ToyLM(6, noise=0.5), PromptLookupDrafter(6)], ids=["m", "b"])
def test_drafts_are_as_long_as_predicted(drafter):
    target, seen = ToyLM(6), []

    def predictor(last, states):
        assert states is None
        seen.append(last.tolist())
        return LENGTHS[last]

    asked = [Request([1, 2, 3, 1, 2, 3], 50), Request([4, 5, 4], 40, seed=1)]
    decoder = SpeculativeDecoder(
        target, drafter, Controller(PREDICTED, slots=4), predictor=predictor
    )
    results = decoder.generate(asked)
    assert [r.tokens for r in results] == [r.tokens for r in PlainDecoder(target).generate(asked)]
    checked = 0
    for row, result in enumerate(results):
        for turn, drafted in enumerate(result.drafted[:-4]):  # the request's end cuts drafts short
            meant = MEANT[seen[turn][row]]
            offered = drafted if isinstance(drafter, PromptLookupDrafter) else meant
            assert drafted == min(meant, offered)
            checked += drafted == meant
    assert checked > 10
    assert len(set(results[0].drafted)) > 2


def test_what_the_predictor_is_shown():
    """The state after the token before the last, in rows of any length; 0 before the first."""
    model = StaticModel(decoder_of(guessable_llama()))
    asked = [Request(text, 20) for text in prompts(5, 1, 12)]
    shown: list[tuple] = []

    def predictor(last, states):
        shown.append((last.clone(), states.clone()))
        return torch.full((3,), 2.0)

    decoder = SpeculativeDecoder(
        model, StaticModel(model.decoder.without([1])), Controller(PREDICTED, 4),
        predictor=predictor,
    )  # fmt: skip
    results = decoder.generate(asked)
    begun = [0, 0, 0]
    for turn, (last, states) in enumerate(shown):
        for row, (request, result) in enumerate(zip(asked, results, strict=True)):
            if turn >= result.rounds:
                continue
            text = [*request.prompt, *result.tokens[: begun[row]]]
            assert last[row] == text[-1]
            expected = torch.zeros_like(states[row])
            if len(text) > 1:
                other = StaticModel(model.decoder)
                other.prefill([text[:1]])
                expected = other.hidden(torch.tensor([text[:-1]]))[0, -1]
            assert torch.allclose(states[row], expected, rtol=1e-4, atol=1e-4)
            begun[row] += result.accepted[turn] + 1
    assert len(shown) > 5


def test_an_arm_without_a_predictor_is_refused():
    mixed = (("fixed_length", {}), *PREDICTED)
    with pytest.raises(EngineError, match=r"predicted_length .* expected .*predictor=.*, got none"):
        SpeculativeDecoder(ToyLM(6), ToyLM(6), Controller(mixed))
    model = StaticModel(decoder_of(guessable_llama()))
    with pytest.raises(EngineError, match=r"predicted_length .* got none"):
        GraphDecoder(model, model, Controller(mixed))


def test_a_wrong_prediction_is_named():
    decoder = SpeculativeDecoder(
        ToyLM(6), ToyLM(6), Controller(PREDICTED), predictor=lambda last, states: last
    )
    with pytest.raises(TypeError, match="prediction must be float32, got int64"):
        decoder.generate([Request([1], 5)])
