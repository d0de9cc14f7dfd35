"""The static-cache decoder computes what transformers does, row by row, after any rollback."""

from __future__ import annotations

import copy

import pytest
import torch

import tapout_kernels as tk
from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.huggingface import HFModel
from tapout_engine.adapters.static import StaticModel
from tapout_engine.models import Branches, DecoderConfig
from tapout_engine.models import decoder as decoder_module
from tapout_engine.models.weights import decoder_of

SIZES = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.15,
}  # fmt: skip
SCALED = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
          "original_max_position_embeddings": 128}  # fmt: skip
FAMILIES = {
    "llama": ("Llama", {}),
    "many heads": ("Llama", {"num_key_value_heads": 4}),
    "biases": ("Llama", {"attention_bias": True}),
    "scaled": ("Llama", {"rope_parameters": SCALED}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}


def tiny(family: str, seed: int = 0, **changes: object):
    """Every weight random: norms and biases too, which start at 1 and 0."""
    import transformers

    name, own = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SIZES | own | changes)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight += 0.3 * torch.randn_like(weight)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(2, 96, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def whole(model, tokens: list[int], last: int) -> torch.Tensor:
    """Logits after the last tokens by transformers, without a cache."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0, -last:]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lengths", [(9,), (9, 1, 70, 3)], ids=["one row", "four rows"])
@pytest.mark.sliced(4)
def test_logits_are_those_of_transformers_after_rollbacks(model, lengths, packed):
    decoder = decoder_of(model)
    static = StaticModel(decoder.pack() if packed else decoder)
    sequences = prompts(*lengths)
    static.prefill(sequences)
    generator = torch.Generator().manual_seed(7)
    for fed in (3, 1, 5, 2, 4):
        ids = torch.randint(2, 96, (len(lengths), fed), generator=generator)
        ids[:, 0] = torch.tensor([sequence[-1] for sequence in sequences])
        logits = static.forward(ids)
        emitted = []
        for row, sequence in enumerate(sequences):
            close(logits[row], whole(model, sequence + ids[row, 1:].tolist(), fed))
            kept = int(torch.randint(0, fed, (), generator=generator))
            fresh = int(torch.randint(2, 96, (), generator=generator))
            emitted.append([*ids[row, 1 : 1 + kept].tolist(), fresh])
            sequence += emitted[-1]
        static.commit(emitted)


def test_what_was_never_fed_is_read_with_the_next_tokens(llama):
    """A drafter is not fed its last draft, and nothing where another drafter had the round."""
    static, sequences = StaticModel(decoder_of(llama)), prompts(5, 8, 3)
    static.prefill(sequences)
    for steps, emitted in ((2, [[7, 8, 9], [7, 5], [4]]), (0, [[6], [6, 7, 8, 9], []])):
        drafts = [[7, 8], [7, 8], [7, 8]]
        token = torch.tensor([sequence[-1] for sequence in sequences])
        for step in range(steps):
            static.step(token)
            token = torch.tensor([row[step] for row in drafts])
        static.commit(emitted)
        sequences = [sequence + new for sequence, new in zip(sequences, emitted, strict=True)]
    logits = static.step(torch.tensor([sequence[-1] for sequence in sequences]))
    for row, sequence in enumerate(sequences):
        close(logits[row], whole(llama, sequence, 1)[0])


def test_where_attention_has_no_kernel_chains_are_attended_in_groups(llama, monkeypatch):
    monkeypatch.setattr(decoder_module, "FUSED", ())
    static, sequences = StaticModel(decoder_of(llama)), prompts(9, 70, 1)
    static.prefill(sequences)
    logits = static.forward(torch.tensor([[sequence[-1], 7, 8] for sequence in sequences]))
    for row, sequence in enumerate(sequences):
        close(logits[row], whole(llama, [*sequence, 7, 8], 3))


def test_the_cache_grows_and_keeps_what_it_holds(llama):
    static, (prompt, other) = StaticModel(decoder_of(llama)), prompts(40, 300)
    static.prefill([prompt])
    slots = static.cache.slots
    for token in other:
        static.commit([[token]])
    logits = static.step(torch.tensor([other[-1]]))
    assert static.cache.slots > slots
    close(logits[0], whole(llama, prompt + other, 1)[0])


@pytest.mark.parametrize("fused", [("cpu",), ()], ids=["fused", "in groups"])
def test_a_tree_is_its_branches(llama, monkeypatch, fused):
    """Every node of a tree gets the logits that its path alone would get."""
    monkeypatch.setattr(decoder_module, "FUSED", fused)
    parents = [-1, 0, 0, 1, 1, 2]
    paths = [[i] if p < 0 else [] for i, p in enumerate(parents)]
    for i, parent in enumerate(parents):
        paths[i] = paths[parent] + [i] if parent >= 0 else [i]
    decoder, sequences = decoder_of(llama), prompts(6, 11)
    cache = decoder.cache(2, 64)
    width = torch.tensor([sequences[0] + [0] * 5, sequences[1]])
    tokens = torch.randint(2, 96, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        decoder(width, torch.tensor([0, 0]), cache)
        start = torch.tensor([6, 11])
        nodes = torch.tensor([parents[1:]] * 2, dtype=torch.int32) - 1
        tree = tk.tree_layout(nodes, position=start)
        logits = decoder.logits(decoder(tokens, start, cache, branches=Branches.of(tree)))
    for row, sequence in enumerate(sequences):
        for node, path in enumerate(paths):
            branch = sequence + tokens[row, path].tolist()
            close(logits[row, node], whole(llama, branch, 1)[0])


@pytest.mark.parametrize("widths", [[1] * 8, [3, 5], [7, 1]], ids=str)
def test_a_token_gets_the_same_bits_beside_any_others(llama, widths):
    """In bf16 a difference in the last bit would soon be one of tokens."""
    decoder = decoder_of(copy.deepcopy(llama).to(torch.bfloat16)).pack()
    (prompt, ids) = prompts(60, 8)

    def logits(widths: list[int], batch: int) -> torch.Tensor:
        cache, length = decoder.cache(batch, 128), len(prompt)
        decoder(torch.tensor([prompt] * batch), torch.zeros(batch, dtype=torch.int64), cache, 60)
        found = []
        for width in widths:
            part = torch.tensor([ids[length - 60 : length - 60 + width]] * batch)
            hidden = decoder(part, torch.full((batch,), length), cache, length + width)
            found.append(decoder.logits(hidden)[0])
            length += width
        return torch.cat(found)

    with torch.no_grad():
        expected = logits([8], 1)
        assert torch.equal(logits(widths, 1), expected)
        assert torch.equal(logits(widths, 3), expected)


def speculative(llama, rule: str) -> SpeculativeDecoder:
    drafter = StaticModel(decoder_of(tiny("llama", num_hidden_layers=1)))
    return SpeculativeDecoder(
        StaticModel(decoder_of(llama)), drafter, Controller(slots=4), rule=rule
    )


def test_greedy_output_of_a_batch_is_that_of_its_rows_alone(llama):
    requests = [Request(prompt, 30, temperature=0.0) for prompt in prompts(9, 2, 30)]
    found = speculative(llama, "token").generate(requests)
    for request, result in zip(requests, found, strict=True):
        alone = PlainDecoder(HFModel(llama)).generate([request])[0]
        assert result.tokens == alone.tokens
        assert sum(result.accepted) < sum(result.drafted)  # there were rollbacks


def test_gumbel_output_of_a_batch_is_plain_decodings(llama):
    requests = [Request(prompt, 30, seed=i) for i, prompt in enumerate(prompts(9, 2, 30))]
    plain = PlainDecoder(StaticModel(decoder_of(llama)), rule="gumbel").generate(requests)
    found = speculative(llama, "gumbel").generate(requests)
    assert [result.tokens for result in found] == [result.tokens for result in plain]


def test_a_long_prompt_is_read_in_parts(llama):
    static, (prompt, short) = StaticModel(decoder_of(llama)), prompts(400, 2)
    static.prefill([prompt, short])
    logits = static.step(torch.tensor([prompt[-1], short[-1]]))
    close(logits[0], whole(llama, prompt, 1)[0])
    close(logits[1], whole(llama, short, 1)[0])


def test_other_architectures_are_refused():
    import transformers

    with pytest.raises(EngineError, match=r"model_type must be one of .*, got 'gpt2'"):
        DecoderConfig.of(transformers.GPT2Config())
    with pytest.raises(EngineError, match="sliding window"):
        DecoderConfig.of(transformers.MistralConfig(sliding_window=6))
    with pytest.raises(EngineError, match="hidden_act must be 'silu', got 'gelu'"):
        DecoderConfig.of(transformers.LlamaConfig(hidden_act="gelu"))


def test_prompts_beyond_the_positions_are_refused(llama):
    with pytest.raises(EngineError, match="reads at most 64 tokens, got 65"):
        StaticModel(decoder_of(llama, max_length=64)).prefill([[5] * 65])
