"""A draft head reads what its target knows, in every round, and nothing that was rejected."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import tapout_kernels as tk
from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.models import DraftHead, StaticCache, load_head, native, save_head
from tapout_engine.models.linear import Bytes
from tapout_engine.models.weights import decoder_of

from .heads import SIZE, VOCAB, guessable_llama, guessing, prompts, trainable


@pytest.fixture(scope="module")
def model():
    return guessable_llama()


@pytest.fixture(scope="module")
def decoder(model):
    return decoder_of(model)


def before(states: torch.Tensor) -> torch.Tensor:
    """The state of the token before each; zeros before the first."""
    return torch.nn.functional.pad(states, (0, 0, 1, 0))[:, :-1]


@torch.no_grad()
def test_a_head_is_a_llama_on_fused_inputs(decoder):
    """Its layers by transformers: rotation, grouping and norms are a Llama's."""
    from transformers import LlamaConfig, LlamaModel

    c, trained = decoder.config, trainable(decoder, layers=2)
    w = trained.weights()
    peer = LlamaModel(LlamaConfig(
        vocab_size=VOCAB, hidden_size=SIZE, intermediate_size=c.intermediate_size,
        num_hidden_layers=2, num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads,
        rms_norm_eps=c.norm_eps,
    )).eval()  # fmt: skip
    for i, layer in enumerate(peer.layers):
        sizes = [SIZE, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
        gate_up = w[f"layers.{i}.gate_up"].chunk(2)
        layer.load_state_dict({
            **{f"self_attn.{name}_proj.weight": part
               for name, part in zip("qkv", w[f"layers.{i}.qkv"].split(sizes), strict=True)},
            "self_attn.o_proj.weight": w[f"layers.{i}.out"],
            "mlp.gate_proj.weight": gate_up[0], "mlp.up_proj.weight": gate_up[1],
            "mlp.down_proj.weight": w[f"layers.{i}.down"],
            "input_layernorm.weight": w[f"layers.{i}.before"],
            "post_attention_layernorm.weight": w[f"layers.{i}.between"],
        })  # fmt: skip
    peer.norm.weight.copy_(w["norm"])
    tokens, states = torch.tensor(prompts(12, 12)), torch.randn(2, 12, SIZE)

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + c.norm_eps).rsqrt() * weight

    both = (
        norm(decoder.embedding[tokens], w["token_norm"]), norm(before(states), w["state_norm"])
    )  # fmt: skip
    expected = peer(inputs_embeds=torch.cat(both, -1) @ w["fuse"].T).last_hidden_state
    head = DraftHead(trained.config, w, decoder, torch.arange(VOCAB).int())
    found = head(tokens, before(states), torch.tensor([0, 0]), head.cache(2, 12), 12)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_training_computes_what_drafting_does(decoder, layers):
    """Features of step s at position m + s: those of s steps after a text of m + 1 tokens."""
    steps, length, starts = 4, 14, [3, 7]
    trained = trainable(decoder, layers)
    tokens, states = torch.tensor(prompts(length, length)), torch.randn(2, length, SIZE)
    features = trained(tokens, states, steps)
    head = DraftHead(trained.config, trained.weights(), decoder, torch.arange(VOCAB).int())
    cache = head.cache(2, 64)
    first = head(tokens, before(states), torch.tensor([0, 0]), cache, length)
    torch.testing.assert_close(first, features[0], rtol=0, atol=1e-5)
    rows = torch.arange(2)
    feature = first[rows, starts][:, None]
    for step in range(1, steps):
        at = torch.tensor(starts) + step
        feature = head(tokens[rows, at][:, None], feature, at, cache, length)
        torch.testing.assert_close(
            feature[:, 0], features[step][rows, at], rtol=0, atol=1e-5, msg=f"step {step}"
        )


# ---- Drafting -----------------------------------------------------------------------------------


class Watched(HeadDrafter):
    """Notes what every step of every round was given and what it answered."""

    def prefill(self, prompts):
        super().prefill(prompts)
        self.confirmed = [list(prompt) for prompt in prompts]
        self.notes: list[tuple[int, int, list[int], torch.Tensor]] = []
        self.fed: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []
        self.undrafted = 0

    def step(self, token):
        self.fed.append(token.clone())
        self.logits.append(super().step(token))
        return self.logits[-1]

    def commit(self, emitted):
        super().commit(emitted)
        for row, tokens in enumerate(emitted):
            if tokens and self.fed:
                fed = torch.stack(self.fed)[:, row].tolist()
                assert fed[0] == self.confirmed[row][-1]
                logits = torch.stack(self.logits)[:, row]
                self.notes.append((row, len(self.confirmed[row]), fed, logits))
            self.confirmed[row] += tokens
        self.undrafted += not self.fed
        self.fed, self.logits = [], []


@torch.no_grad()
def check_from_scratch(drafter: Watched, model) -> None:
    """Every answer again, out of confirmed tokens and the target's states by transformers."""
    head, true = drafter.head, []
    for row, tokens in enumerate(drafter.confirmed):
        ids = torch.tensor([tokens])
        states = model.model(ids, use_cache=False).last_hidden_state
        kept = drafter.target.states[row, : len(tokens) - 1]
        torch.testing.assert_close(kept, states[0, :-1], rtol=1e-4, atol=1e-4)
        cache = head.cache(1, len(tokens) + 16)
        true.append((head(ids, before(states), torch.tensor([0]), cache, len(tokens)), cache))
    for row, length, fed, logits in drafter.notes:
        features, cache = true[row]
        cache, feature = copy.deepcopy(cache), features[:, length - 1 : length]
        cache.entries[..., length:, :] = 0.0
        found = [feature]
        for at, token in enumerate(fed[1:], start=length):
            ids = torch.tensor([[token]])
            found.append(head(ids, found[-1], torch.tensor([at]), cache, at + 1))
        expected = head.logits(torch.cat(found, dim=1))[0]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def speculative(decoder, head, rule="token", early_exit=True, **settings):
    """A decoder and its drafter."""
    target = StaticModel(decoder)
    drafter, controller = Watched(head, target), Controller(slots=4, **settings)
    return SpeculativeDecoder(
        target, drafter, controller, rule=rule, early_exit=early_exit
    ), drafter


def plain(decoder, requests, rule="token") -> list[list[int]]:
    found = PlainDecoder(StaticModel(decoder), rule=rule).generate(requests)
    return [result.tokens for result in found]


def mixed(results) -> bool:
    """Whether drafts were accepted and others refused."""
    return 0 < sum(sum(r.accepted) for r in results) < sum(sum(r.drafted) for r in results)


@pytest.mark.parametrize("layers", [1, 2])
def test_greedy_output_is_plain_decodings_and_nothing_stale_is_read(model, decoder, layers):
    """Rows of their own length that end at their own time; one prompt is read in parts."""
    lengths = zip(prompts(9, 1, 280), (120, 80, 50), strict=True)
    requests = [Request(prompt, new) for prompt, new in lengths]
    speculating, drafter = speculative(decoder, guessing(decoder, layers=layers))
    results = speculating.generate(requests)
    assert [result.tokens for result in results] == plain(decoder, requests)
    assert mixed(results)
    rounds = [result.rounds for result in results]
    assert len(set(rounds)) == 3
    check_from_scratch(drafter, model)


def test_caches_of_short_prompts_grow(model, decoder):
    speculating, drafter = speculative(decoder, guessing(decoder))
    lengths = zip(prompts(1, 3, 40), (310, 30, 60), strict=True)
    speculating.generate([Request(prompt, new) for prompt, new in lengths])
    assert drafter.cache.slots > 300
    check_from_scratch(drafter, model)


@pytest.mark.parametrize("rule", ["token", "block", "gumbel"])
@pytest.mark.parametrize("early_exit", [True, False])
def test_every_rule_drafts_from_what_is_confirmed(model, decoder, rule, early_exit):
    requests = [Request(p, 40, temperature=1.0, seed=i) for i, p in enumerate(prompts(6, 1, 30))]
    speculating, drafter = speculative(decoder, guessing(decoder), rule, early_exit)
    results = speculating.generate(requests)
    assert mixed(results)
    check_from_scratch(drafter, model)
    if rule == "gumbel":
        assert [result.tokens for result in results] == plain(decoder, requests, rule)


def test_an_end_inside_a_block_leaves_other_rows_alone(model, decoder):
    requests = [Request(prompt, 60) for prompt in prompts(5, 8, 1)]
    requests[1] = replace(requests[1], eos=plain(decoder, requests)[1][7:8])
    speculating, drafter = speculative(decoder, guessing(decoder))
    results = speculating.generate(requests)
    assert [result.tokens for result in results] == plain(decoder, requests)
    assert results[1].finish_reason == "eos"
    check_from_scratch(drafter, model)


def test_rounds_without_a_draft_are_caught_up_with(model, decoder):
    """Where no row drafts the head is not asked; where one does, others only read."""
    arms = [("fixed_length", {"n": 0}), ("fixed_length", {"n": 3})]
    requests = [Request(prompt, new) for prompt, new in zip(prompts(7, 1), (50, 35), strict=True)]
    for settings in ({}, {"policy": "epsilon_greedy", "epsilon": 0.9}):
        speculating, drafter = speculative(decoder, guessing(decoder), arms=arms, **settings)
        results = speculating.generate(requests)
        assert [result.tokens for result in results] == plain(decoder, requests)
        drafted = [n for result in results for n in result.drafted]
        assert {0, 3} <= set(drafted)
        assert drafter.undrafted, "some rounds had no draft at all"
        check_from_scratch(drafter, model)


def test_a_row_without_a_budget_beside_others_that_draft(model, decoder):
    """The last token of a request is never drafted; others go on."""
    requests = [
        Request(prompt, new) for prompt, new in zip(prompts(4, 6, 2), (1, 2, 40), strict=True)
    ]
    speculating, drafter = speculative(decoder, guessing(decoder))
    results = speculating.generate(requests)
    assert results[0].drafted == [0]
    assert [result.tokens for result in results] == plain(decoder, requests)
    check_from_scratch(drafter, model)


def test_a_second_batch_knows_nothing_of_the_first(model, decoder):
    speculating, drafter = speculative(decoder, guessing(decoder))
    speculating.generate([Request(prompt, 30) for prompt in prompts(20, 3, 9)])
    requests = [Request(prompt, 30) for prompt in prompts(2, 5)]
    results = speculating.generate(requests)
    assert [result.tokens for result in results] == plain(decoder, requests)
    check_from_scratch(drafter, model)


@torch.no_grad()
def test_rows_that_others_draft_for_are_read_along(model, decoder):
    """Once: what is confirmed of them is not read again every round."""
    target = StaticModel(decoder)
    drafter, rows = Watched(guessing(decoder), target), prompts(3, 5, 4)
    target.prefill(rows)
    drafter.prefill(rows)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(12):
        last = torch.tensor([row[-1] for row in drafter.confirmed])
        drafts = torch.randint(2, VOCAB, (3, 2), generator=drawn)
        for token in (last, *drafts.T[:1]):
            drafter.step(token)
        target.forward(torch.cat((last[:, None], drafts), 1))
        emitted = [[*row[: i % 2 + 1], 7] for i, row in enumerate(drafts.tolist())]
        mine = int(torch.randint(0, 2, (), generator=drawn))
        target.commit(emitted)
        drafter.commit([row if i == mine else [] for i, row in enumerate(emitted)])
        drafter.commit([[] if i == mine else row for i, row in enumerate(emitted)])
        assert max(map(len, drafter.tail)) <= 4
    check_from_scratch(drafter, model)


def test_rows_may_reach_the_last_position(model):
    decoder = decoder_of(model, max_length=64)
    requests = [Request(prompt, 100) for prompt in prompts(50, 60)]
    speculating, drafter = speculative(decoder, guessing(decoder))
    results = speculating.generate(requests)
    assert [result.tokens for result in results] == plain(decoder, requests)
    assert [len(result.tokens) for result in results] == [14, 4]
    check_from_scratch(drafter, model)


def test_a_packed_head_drafts_as_a_plain_one(model):
    """In float32 greedy tokens are the same; the target's weights are packed too."""
    packed = decoder_of(model).pack()
    d2t = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(3))[:60]
    head = guessing(packed, d2t).pack()
    if native.HERE:
        assert all(isinstance(part.packed, Bytes) for part in (head.fuse, head.head))
    requests = [Request(prompt, 30) for prompt in prompts(5, 1)]
    results = speculative(packed, head)[0].generate(requests)
    assert [result.tokens for result in results] == plain(decoder_of(model), requests)
    assert mixed(results)


# ---- A draft vocabulary of its own --------------------------------------------------------------


@pytest.mark.parametrize("rule", ["token", "block", "gumbel"])
def test_a_small_vocabulary_drafts_its_own_tokens_and_harms_no_output(model, decoder, rule):
    d2t = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(3))[:60]
    requests = [
        Request(p, 40, temperature=float(rule == "gumbel"), seed=i)
        for i, p in enumerate(prompts(9, 1, 30))
    ]
    speculating, drafter = speculative(decoder, guessing(decoder, d2t), rule)
    results = speculating.generate(requests)
    tokens = [result.tokens for result in results]
    assert tokens == plain(decoder, requests, rule)
    assert mixed(results)
    known = set(d2t.tolist())
    assert not {token for row in tokens for token in row} <= known, "some words only the target has"
    for _, _, fed, logits in drafter.notes:
        assert set(fed) <= known | {fed[0]}
        assert logits.shape[1] == len(known)
    proposal = speculating.lanes[0].proposal
    if rule == "gumbel":
        assert proposal.logits is None
    else:
        assert proposal.logits.shape == (3, 4, 60)
    check_from_scratch(drafter, model)


def test_logits_are_rows_of_the_targets_head(decoder):
    d2t = torch.tensor([5, 90, 0, 17])
    hidden = torch.randn(2, 3, SIZE)
    expected = decoder.logits(hidden)[..., d2t]
    torch.testing.assert_close(guessing(decoder, d2t).logits(hidden), expected)


def test_a_cache_that_holds_more_keeps_what_it_has():
    cache = StaticCache(2, 3, 2, 64, 4, torch.float32)
    slots = torch.tensor([[0, 5], [1, 2], [62, 63]])
    keys, values = torch.randn(2, 3, 2, 2, 4)
    cache.store(1, slots, torch.cat((keys, values), dim=1))
    for found, stored in zip(cache.load(1, 64), (keys, values), strict=True):
        for row, at in enumerate(slots):
            assert torch.equal(found[row, :, at], stored[row])
    before = cache.entries.clone()
    cache.hold(64)
    assert cache.slots == 64
    for wanted, slots in ((65, 128), (300, 320)):
        cache.hold(wanted)
        assert cache.slots == slots
        assert torch.equal(cache.entries[..., :64, :], before)
        assert not cache.entries[..., 64:, :].any()


# ---- Files --------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_head_comes_back_from_its_file(tmp_path, model):
    """In bf16, the dtype it is stored in, bit by bit; for a target in float32 it is float32."""
    half = decoder_of(copy.deepcopy(model).to(torch.bfloat16))
    trained = trainable(half, layers=2)
    d2t = torch.randperm(VOCAB)[:40]
    path = tmp_path / "head.safetensors"
    save_head(path, trained.config, trained.weights(), d2t, "tiny")
    loaded = load_head(path, half)
    assert loaded.config == trained.config
    assert loaded.d2t.dtype == torch.int32
    assert loaded.d2t.tolist() == d2t.tolist()
    own = DraftHead(trained.config, trained.weights(), half, d2t.int())
    ids, states = torch.tensor(prompts(9)), torch.randn(1, 9, SIZE).bfloat16()
    begin = torch.tensor([0])
    expected = own.logits(own(ids, states, begin, own.cache(1, 9), 9))
    assert torch.equal(loaded.logits(loaded(ids, states, begin, loaded.cache(1, 9), 9)), expected)
    assert load_head(path, decoder_of(model)).fuse.weight.dtype == torch.float32


def test_files_that_are_no_head_for_this_target_are_refused(tmp_path, decoder, model_dir):
    with pytest.raises(EngineError, match=r"draft: .*none.safetensors cannot be read"):
        load_head(tmp_path / "none.safetensors", decoder)
    text = tmp_path / "text.safetensors"
    text.write_text("no tensors")
    with pytest.raises(EngineError, match=r"draft: .*text.safetensors cannot be read"):
        load_head(text, decoder)
    with pytest.raises(EngineError, match=r"model.safetensors is no draft head: expected format"):
        load_head(model_dir / "model.safetensors", decoder)
    bare = tmp_path / "bare.safetensors"
    save_file({"x": torch.zeros(1)}, bare)
    with pytest.raises(EngineError, match="no draft head"):
        load_head(bare, decoder)
    trained = trainable(decoder)
    for name in ("hidden_size", "vocab_size", "head_dim"):
        path = tmp_path / f"{name}.safetensors"
        other = replace(trained.config, **{name: 7})
        save_head(path, other, trained.weights(), torch.arange(VOCAB), "another")
        with pytest.raises(EngineError, match=r"is for another: expected .*\(48, 96, 12\), got"):
            load_head(path, decoder)


def test_a_drafter_says_what_it_is(decoder):
    target = StaticModel(decoder)
    drafter = HeadDrafter(guessing(decoder, torch.tensor([3, 1])), target)
    assert (drafter.vocab_size, drafter.max_length) == (VOCAB, 1024)
    assert isinstance(drafter.draft_vocab, tk.DraftVocab)
    assert len(drafter.draft_vocab) == 2
