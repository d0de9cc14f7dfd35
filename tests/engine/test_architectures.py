"""Models that are not Llamas: other names in the config, other caches."""

from __future__ import annotations

import pytest
import torch

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.huggingface import HFModel
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.self_draft import skip_layers

PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]
NEW_TOKENS = 40


def gpt2():
    """Layers at ``transformer.h``, counted as ``n_layer``; learned positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=96, n_positions=64, n_embd=48, n_layer=4, n_head=4,
        bos_token_id=0, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def mistral():
    """A sliding window that is far shorter than the sequence."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=96, hidden_size=48, intermediate_size=96, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        sliding_window=6, bos_token_id=0, eos_token_id=1, initializer_range=0.15,
    )  # fmt: skip
    return MistralForCausalLM(config)


@pytest.fixture(scope="module", params=[gpt2, mistral], ids=["gpt2", "mistral"])
def model(request):
    torch.manual_seed(3)
    return request.param().eval()


@pytest.fixture(scope="module")
def greedy(model) -> list[int]:
    """Greedy tokens by whole forwards: no cache at all."""
    tokens = list(PROMPT)
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            logits = model(torch.tensor([tokens]), use_cache=False).logits
            tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


def test_plain_decoding_is_the_models_own(model, greedy):
    assert PlainDecoder(HFModel(model)).generate([Request(PROMPT, NEW_TOKENS)])[0].tokens == greedy
    assert len(set(greedy)) > 5


@pytest.mark.parametrize("kind", ["all layers", "skip one", "skip two", "lookup"])
def test_greedy_equals_plain_decoding(kind, model, greedy):
    skip = {"all layers": [], "skip one": [1], "skip two": [1, 2]}
    if kind == "lookup":
        drafter = PromptLookupDrafter(96)
    else:
        drafter = HFModel(skip_layers(model, skip[kind]))
    decoder = SpeculativeDecoder(HFModel(model), drafter, Controller(slots=5))
    result = decoder.generate([Request(PROMPT, NEW_TOKENS)])[0]
    assert result.tokens == greedy
    if kind == "all layers":
        assert result.accepted == result.drafted, "the drafter's cache follows as well"
    else:
        assert sum(result.accepted) < sum(result.drafted), "some draft must have been dropped"


def test_caches_that_cannot_be_cropped_are_refused():
    """A recurrent state forgets nothing, so rejected drafts would stay in it."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=96, hidden_size=16, state_size=4, num_hidden_layers=2, bos_token_id=0,
        eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    target = HFModel(MambaForCausalLM(config))
    with pytest.raises(EngineError, match="the cache of MambaForCausalLM cannot drop rejected"):
        PlainDecoder(target).generate([Request(PROMPT, 5)])
