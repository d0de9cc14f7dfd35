"""Hugging Face models in float32: no divergence from plain decoding, and caches that follow."""

from __future__ import annotations

import pytest
import torch

from tapout_engine import (
    LENGTH_ARMS,
    TAPOUT_ARMS,
    Controller,
    EngineError,
    PlainDecoder,
    Request,
    SpeculativeDecoder,
)
from tapout_engine.adapters import huggingface
from tapout_engine.adapters.huggingface import HFModel
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.self_draft import skip_layers
from tapout_engine.divergence import first_divergence
from tapout_engine.skipping import middle_layers

from .conftest import tiny_llama

PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]


def drafter(kind: str, llama):
    if kind == "self":
        return HFModel(skip_layers(llama, [2]))
    if kind == "lookup":
        return PromptLookupDrafter(96)
    if kind == "itself":
        return HFModel(llama)
    return HFModel(tiny_llama(seed=1, perturb=0.05))


@pytest.fixture(scope="module")
def plain(llama):
    return PlainDecoder(HFModel(llama)).generate([Request(PROMPT, 40)])[0].tokens


@pytest.mark.parametrize("slots", [1, 4, 9])
@pytest.mark.parametrize("arms", [TAPOUT_ARMS, LENGTH_ARMS], ids=["rules", "lengths"])
@pytest.mark.parametrize("kind", ["self", "lookup", "other", "itself"])
@pytest.mark.sliced(4)
def test_greedy_equals_plain_decoding(kind, arms, slots, llama, plain):
    decoder = SpeculativeDecoder(HFModel(llama), drafter(kind, llama), Controller(arms, slots))
    result = decoder.generate([Request(PROMPT, 40)])[0]
    assert result.tokens == plain
    assert first_divergence(decoder.target, PROMPT, plain, result.tokens) is None
    assert len(set(plain)) > 5, "the model must not repeat itself, or anything would pass"
    if kind == "other" and slots > 1:
        assert 0 < sum(result.accepted) < sum(result.drafted), "some accepted, some rejected"


@pytest.mark.parametrize("kind", ["self", "other", "itself", "lookup"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_caches_equal_plain_decoding_after_every_round(kind, temperature, llama):
    target, draft = HFModel(llama), drafter(kind, llama)
    decoder = SpeculativeDecoder(target, draft, Controller(slots=5))
    lane = decoder.lanes[0]
    checked = []

    def check(row, tokens, text):
        checked.append(lane.proposal.length.item() - lane.verdict.num_accepted.item())
        assert_follows(target, HFModel(llama))
        assert target.cache.get_seq_length() == len(target.rows[0].tokens) - 1
        if isinstance(draft, HFModel):
            assert_follows(draft, HFModel(draft.model))

    decoder.generate([Request(PROMPT, 25, temperature, seed=2)], check)
    if kind in ("self", "other"):
        assert max(checked) > 1, "a rejection must have dropped several entries"


def assert_follows(model: HFModel, fresh: HFModel) -> None:
    """The cache holds confirmed tokens only, as if they had been read at once."""
    length = model.cache.get_seq_length()
    assert length < len(model.rows[0].tokens)
    fresh.prefill([model.rows[0].tokens[: length + 1]])
    assert len(model.cache.layers) == len(fresh.cache.layers)
    for mine, theirs in zip(model.cache.layers, fresh.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(mine.values, theirs.values, atol=2e-5, rtol=1e-4)


def test_sampling_with_equal_models_accepts_nearly_everything(llama):
    """p_draft is what the drafter really sampled from, so drafter = target is never rejected."""
    decoder = SpeculativeDecoder(
        HFModel(llama), HFModel(llama), Controller((("fixed_length", {"n": 4}),), slots=4)
    )
    result = decoder.generate([Request(PROMPT, 40, 0.8, top_k=20, top_p=0.9)])[0]
    assert result.accepted[:-1] == result.drafted[:-1]


@pytest.mark.parametrize("kind", ["self", "lookup", "itself"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_bfloat16_models_keep_their_dtype(kind, temperature):
    model = tiny_llama(seed=1).to(torch.bfloat16)
    decoder = SpeculativeDecoder(HFModel(model), drafter(kind, model), Controller())
    result = decoder.generate([Request(PROMPT, 30, temperature)])[0]
    assert len(result.tokens) == 30
    kept = decoder.lanes[0].proposal.logits
    assert kept is None if kind == "lookup" else kept.dtype == torch.bfloat16


def test_self_draft_shares_weights_and_leaves_the_target_alone(llama):
    before = {name: weight.clone() for name, weight in llama.state_dict().items()}
    tokens = torch.tensor([PROMPT])
    with torch.no_grad():
        logits = llama(tokens).logits
        shallow = skip_layers(llama, [1, 2])
        shallow(tokens)
        assert torch.equal(llama(tokens).logits, logits)
    assert llama.config.num_hidden_layers == len(llama.model.layers) == 4
    assert shallow.config.num_hidden_layers == len(shallow.model.layers) == 2
    owned = {weight.data_ptr() for weight in llama.parameters()}
    assert {weight.data_ptr() for weight in shallow.parameters()} < owned
    assert all(torch.equal(before[name], weight) for name, weight in llama.state_dict().items())
    kept = [layer.self_attn.q_proj.weight for layer in shallow.model.layers]
    assert kept[1] is llama.model.layers[3].self_attn.q_proj.weight


def test_self_draft_that_skips_nothing_is_the_target(llama):
    tokens = torch.tensor([PROMPT])
    with torch.no_grad():
        assert torch.equal(skip_layers(llama, [])(tokens).logits, llama(tokens).logits)


@pytest.mark.parametrize(
    ("skip", "message"),
    [([4], r"layers of \[0, 4\)"), ([-1], r"\[-1\]"), (range(4), "at least one")],
)
def test_layers_that_cannot_be_skipped(skip, message, llama):
    with pytest.raises(EngineError, match=message):
        skip_layers(llama, skip)


@pytest.mark.parametrize(("total", "expected"), [(30, range(12, 18)), (4, [1]), (2, [0]), (1, [])])
def test_middle_layers(total, expected):
    assert middle_layers(total) == tuple(expected)


def test_unequal_vocabularies_are_refused(llama):
    with pytest.raises(EngineError, match="vocabulary of 96 tokens, got one of 80"):
        SpeculativeDecoder(HFModel(llama), HFModel(tiny_llama(1, vocab=80)), Controller())


@pytest.mark.parametrize("missing", ["activate_past_recording", "is_croppable"])
def test_a_transformers_without_the_needed_cache_is_named(missing, llama, monkeypatch):
    names = {"activate_past_recording", "is_croppable", "crop"} - {missing}
    old = type("DynamicCache", (), dict.fromkeys(names))
    monkeypatch.setattr(huggingface, "DynamicCache", old)
    with pytest.raises(EngineError, match=r"needs transformers >= 5.23, .*got \d+\."):
        HFModel(llama)


def test_sequences_longer_than_the_model_reads_are_refused(llama):
    model = HFModel(llama)
    assert model.max_length == 512
    with pytest.raises(EngineError, match="reads at most 512 tokens, got 513"):
        model.prefill([[5] * 514])


def test_a_prompt_of_one_token(llama):
    request = Request([9], 12)
    expected = PlainDecoder(HFModel(llama)).generate([request])[0].tokens
    decoder = SpeculativeDecoder(HFModel(llama), drafter("other", llama), Controller())
    assert decoder.generate([request])[0].tokens == expected


class WildDrafter(PromptLookupDrafter):
    """After one good token it proposes an id that the target cannot embed."""

    def __init__(self, first: int):
        super().__init__(vocab_size=96)
        self.draft = [first, 5000, 7]

    def propose(self, slots):
        return torch.tensor([self.draft])


def test_a_draft_outside_the_vocabulary_never_reaches_the_model(llama, plain):
    controller = Controller((("fixed_length", {"n": 3}),), slots=3)
    decoder = SpeculativeDecoder(HFModel(llama), WildDrafter(plain[0]), controller)
    result = decoder.generate([Request(PROMPT, 20)])[0]
    assert result.finish_reason == "error"
    assert "outside the vocabulary" in result.error
    assert result.tokens == plain[:2], "what was emitted is the target's own"


def test_divergence_reports_the_margin_of_the_two_tokens(llama):
    target = HFModel(llama)
    target.prefill([PROMPT])
    logits = target.forward(torch.tensor([PROMPT[-1:]]))[0, -1]
    first, second, third = logits.topk(3).indices.tolist()
    found = first_divergence(target, PROMPT, [first, 4], [third, 4])
    assert (found.position, found.expected, found.got) == (0, first, third)
    assert found.margin == pytest.approx(float(logits[first] - logits[third]))
    top = float(logits[first])
    assert top * 2**-7 <= found.rounding <= top * 2**-6
    assert not first_divergence(target, PROMPT, [first], [first, second]).explained
    assert first_divergence(target, PROMPT, [first], [first]) is None
