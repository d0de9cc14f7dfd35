"""Batches by transformers: every row as if it were alone, whatever was rolled back."""

from __future__ import annotations

import pytest
import torch

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.huggingface import HFModel
from tapout_engine.adapters.ragged import RaggedCache
from tapout_engine.adapters.self_draft import skip_layers

from .test_static import close, prompts, whole

SLOTS = 4
LENGTHS = (9, 1, 30, 4)
LLAMA = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.15,
}  # fmt: skip
GPT2 = {"vocab_size": 96, "n_positions": 256, "n_embd": 48, "n_layer": 3, "n_head": 4,
        "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3}  # fmt: skip
NEO = {"vocab_size": 96, "max_position_embeddings": 256, "hidden_size": 48, "num_layers": 2,
       "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 6,
       "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.15}  # fmt: skip
ALIBI = {"vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "alibi": True, "bos_token_id": 0, "eos_token_id": 1,
         "initializer_range": 0.15}  # fmt: skip
MIXED = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
FAMILIES = {
    "llama": ("Llama", LLAMA),
    "gpt2": ("GPT2LMHead", GPT2),
    "qwen2": ("Qwen2", LLAMA),
    "window": ("Mistral", LLAMA | {"sliding_window": 6}),
    "some windows": ("Qwen2", LLAMA | MIXED),
    "local": ("GPTNeo", NEO),
    "alibi": ("Falcon", ALIBI),
}


def tiny(family: str, attention: str = "sdpa", **changes: object):
    import transformers

    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name.removesuffix('LMHead')}Config")(**settings | changes)
    config._attn_implementation = attention
    torch.manual_seed(3)
    causal = "Model" if name.endswith("LMHead") else "ForCausalLM"
    return getattr(transformers, name + causal)(config).eval()


class Rollbacks:
    """Random drafts, of which every row keeps some; row 2 ends on the way."""

    def __init__(self, model, rounds: int = 12):
        self.model, self.adapter = model, HFModel(model)
        self.sequences = prompts(*LENGTHS)
        self.draw = torch.Generator().manual_seed(7)
        self.rounds = rounds

    def run(self, ask) -> None:
        """``ask(ids)`` gives logits [B, n, V] for those of the n tokens that are read."""
        self.adapter.prefill(self.sequences)
        for number in range(self.rounds):
            fed = 1 + self.random(5)
            ids = torch.randint(2, 96, (len(LENGTHS), fed), generator=self.draw)
            ids[:, 0] = torch.tensor([sequence[-1] for sequence in self.sequences])
            logits = ask(ids)
            self.check(logits, ids)
            emitted = [self.emitted(row, number) for row in ids[:, 1:].tolist()]
            if number > self.rounds // 2:
                emitted[2] = []
            for sequence, tokens in zip(self.sequences, emitted, strict=True):
                sequence += tokens
            self.adapter.commit(emitted)
            longest = max(len(row.cached) for row in self.adapter.rows)
            assert self.adapter.cache.get_seq_length() == longest < max(map(len, self.sequences))

    def check(self, logits: torch.Tensor, ids: torch.Tensor) -> None:
        for row, sequence in enumerate(self.sequences):
            read = sequence + ids[row, 1:].tolist()
            n = logits.shape[1]
            expected = whole(self.model, read, ids.shape[1])[:n]
            close(logits[row], expected)

    def emitted(self, drafts: list[int], number: int) -> list[int]:
        kept = len(drafts) if number % 5 == 0 else self.random(len(drafts) + 1)
        return [*drafts[:kept], 2 + self.random(94)]

    def random(self, below: int) -> int:
        return int(torch.randint(0, below, (), generator=self.draw))


def as_target(test: Rollbacks):
    return test.adapter.forward


def as_drafter(test: Rollbacks):
    """Token by token; the last one is a draft that the drafter never reads."""

    def steps(ids: torch.Tensor) -> torch.Tensor:
        read = ids[:, : max(1, ids.shape[1] - 1)]
        return torch.stack([test.adapter.step(token) for token in read.unbind(1)], dim=1)

    return steps


@pytest.fixture
def moves(monkeypatch) -> list[int]:
    """The number of columns of every move of rows."""
    moved, move = [], RaggedCache._move

    def noted(self, ends, columns):
        moved.append(columns)
        move(self, ends, columns)

    monkeypatch.setattr(RaggedCache, "_move", noted)
    return moved


@pytest.mark.parametrize("role", [as_target, as_drafter])
@pytest.mark.parametrize(
    ("family", "attention"),
    [(f, a) for f in FAMILIES for a in ("eager", "sdpa") if (f, a) != ("local", "sdpa")],
)
@pytest.mark.sliced(4)
def test_logits_are_those_of_each_row_alone_after_rollbacks(family, attention, role, moves):
    test = Rollbacks(tiny(family, attention))
    test.run(role(test))
    assert len(moves) > 8


def ones_for_masks(inputs):
    def mutant(self, *arguments):
        told = inputs(self, *arguments)
        return told | {"attention_mask": torch.ones_like(told["attention_mask"])}

    return mutant


def columns_for_positions(inputs):
    def mutant(self, width, *arguments):
        columns = self.cache.get_seq_length()
        positions = torch.arange(columns, columns + width).expand(len(self.begin), -1)
        return inputs(self, width, *arguments) | {"position_ids": positions}

    return mutant


def crop_for_move(move):
    def mutant(self, ends, columns):
        self.cache.crop(columns - self.cache.get_seq_length())

    return mutant


@pytest.mark.parametrize(
    ("family", "method", "mutate"),
    [
        ("llama", "inputs", ones_for_masks),
        ("gpt2", "inputs", ones_for_masks),
        ("qwen2", "inputs", ones_for_masks),
        ("gpt2", "inputs", columns_for_positions),  # rotary ones may be shifted
        ("llama", "_move", crop_for_move),
        ("gpt2", "_move", crop_for_move),
        ("window", "_move", crop_for_move),
    ],
)
def test_the_logits_notice_a_wrong_cache(family, method, mutate, monkeypatch):
    monkeypatch.setattr(RaggedCache, method, mutate(getattr(RaggedCache, method)))
    test = Rollbacks(tiny(family), rounds=5)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        test.run(as_target(test))


def requests(new_tokens: tuple[int, ...] = (30, 20, 10, 40), **settings) -> list[Request]:
    """Rows that finish at different times."""
    return [
        Request(prompt, limit, seed=i, **settings)
        for i, (prompt, limit) in enumerate(zip(prompts(*LENGTHS), new_tokens, strict=True))
    ]


def one_by_one(decoder, asked: list[Request]) -> list[list[int]]:
    """The same random keys as together: they count the requests of a decoder."""
    return [decoder.generate([request])[0].tokens for request in asked]


@pytest.mark.parametrize(("rule", "temperature"), [("token", 0.0), ("gumbel", 0.9)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "window"])
def test_a_batch_says_what_its_rows_say_alone(family, rule, temperature, moves):
    model = tiny(family)
    asked = requests(temperature=temperature)
    expected = one_by_one(PlainDecoder(HFModel(model), rule=rule), asked)
    plain = PlainDecoder(HFModel(model), rule=rule).generate(asked)
    assert [result.tokens for result in plain] == expected
    moves.clear()
    drafter = HFModel(skip_layers(model, [1]))
    decoder = SpeculativeDecoder(HFModel(model), drafter, Controller(slots=SLOTS), rule=rule)
    results = decoder.generate(asked)
    assert [result.tokens for result in results] == expected
    assert len(moves) > 10
    assert min(len(set(tokens)) for tokens in expected) >= 5, "no row may repeat itself"
    for result in results:
        assert 0 < sum(result.accepted) < sum(result.drafted), "some accepted, some rejected"


@pytest.mark.parametrize("rule", ["token", "gumbel"])
def test_speculating_alone_or_together_gives_the_same_tokens(rule):
    model = tiny("gpt2")

    def decoder() -> SpeculativeDecoder:
        drafter = HFModel(skip_layers(model, [1]))
        arms = (("fixed_length", {"n": 3}),)
        return SpeculativeDecoder(HFModel(model), drafter, Controller(arms, SLOTS), rule=rule)

    asked = requests(temperature=0.9 if rule == "gumbel" else 0.0)
    together = decoder().generate(asked)
    alone_decoder = decoder()
    alone = [alone_decoder.generate([request])[0] for request in asked]
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    assert [r.accepted for r in together] == [r.accepted for r in alone]


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("drafter_limit", [48, 24])
def test_rows_end_at_the_last_position_each(drafter_limit, early_exit):
    """Rows that have ended, or draft less, are fed padding where the model has no positions."""
    target = HFModel(tiny("gpt2", n_positions=48))
    drafter = HFModel(tiny("gpt2", n_positions=drafter_limit))
    asked = [Request(prompt, 100) for prompt in prompts(9, 1, 21, 4)]
    expected = one_by_one(PlainDecoder(target), asked)
    assert [len(tokens) for tokens in expected] == [39, 47, 27, 44]
    decoder = SpeculativeDecoder(target, drafter, Controller(slots=SLOTS), early_exit=early_exit)
    assert [result.tokens for result in decoder.generate(asked)] == expected


def test_more_than_the_model_reads_is_refused():
    model = HFModel(tiny("gpt2", n_positions=8))
    with pytest.raises(EngineError, match="GPT2LMHeadModel reads at most 8 tokens, got 9"):
        model.prefill([[5] * 2, [5] * 10])
    model.prefill([[5] * 8, [5] * 9])
    with pytest.raises(EngineError, match="reads at most 8 tokens, got 9"):
        model.forward(torch.full((2, 2), 5))


def test_the_cache_is_never_much_longer_than_its_longest_row():
    model = tiny("llama")
    target, drafter = HFModel(model), HFModel(skip_layers(model, [1]))
    decoder = SpeculativeDecoder(target, drafter, Controller(slots=SLOTS))
    columns = {target: [], drafter: []}

    def watch(adapter: HFModel) -> None:
        run = adapter._run

        def watched(runs, logits):
            logits = run(runs, logits)
            longest = max(len(row.tokens) for row in adapter.rows)
            shapes = {
                t.shape[2] for layer in adapter.cache.layers for t in (layer.keys, layer.values)
            }
            assert shapes == {adapter.cache.get_seq_length()}
            columns[adapter].append(adapter.cache.get_seq_length() - longest)
            return logits

        adapter._run = watched

    watch(target)
    watch(drafter)
    decoder.generate(requests())
    assert 0 < max(columns[target]) <= SLOTS
    assert 0 < max(columns[drafter]) <= SLOTS


def test_rows_of_equal_length_are_cropped_like_one(moves):
    model = HFModel(tiny("llama"))
    model.prefill([[5, 6, 7], [8, 9, 10]])
    model.forward(torch.tensor([[7, 1, 2], [10, 3, 4]]))
    model.commit([[1, 9], [3, 9]])
    assert model.cache.get_seq_length() == 4
    assert not moves


def test_one_row_is_run_without_a_mask(monkeypatch):
    model, seen = tiny("llama"), []
    forward = model.forward
    adapter = HFModel(model)
    monkeypatch.setattr(model, "forward", lambda *a, **k: seen.append(set(k)) or forward(*a, **k))
    adapter.prefill([[5, 6, 7]])
    adapter.forward(torch.tensor([[7]]))
    assert seen == [{"past_key_values", "use_cache", "logits_to_keep"}] * 2


def test_models_that_take_no_positions_decode_one_request_at_a_time():
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(
        vocab_size=96, hidden_size=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1,
        initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(3)
    model = BloomForCausalLM(config)
    request = Request([5, 6, 7], 12)
    plain = PlainDecoder(HFModel(model))
    alone = plain.generate([request])[0].tokens
    drafter = HFModel(skip_layers(model, [1]))
    decoder = SpeculativeDecoder(HFModel(model), drafter, Controller(slots=SLOTS))
    assert decoder.generate([request])[0].tokens == alone
    with pytest.raises(EngineError, match=r"no position_ids, so it .* at a time, got 2"):
        plain.generate([request, request])


def test_caches_of_another_kind_decode_one_request_at_a_time():
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicIndexedLayer

    cache = DynamicCache()
    cache.layers = [DynamicIndexedLayer()]
    assert RaggedCache(cache, 1).cache.layers
    with pytest.raises(EngineError, match="DynamicIndexedLayer decodes one request at a time"):
        RaggedCache(cache, 2)
