"""Decoding with trees: the output is plain decoding's, whatever the shape and the drafter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tapout_kernels as tk
from tapout_engine import EngineError, PlainDecoder, Request, TreeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.cli import main
from tapout_engine.models import save_head
from tapout_engine.models.weights import decoder_of

from .conftest import tiny_llama
from .heads import VOCAB, guessable_llama, guessing, prompts, trainable

SHAPES = {
    "eagle2": tk.TreeShape.dynamic(depth=4, top_k=3, nodes=12),
    "template": tk.TreeShape.static([-1, -1, -1, 0, 0, 1, 3]),
    "chain": tk.TreeShape.static([-1, 0, 1]),
}


@pytest.fixture(scope="module")
def decoder():
    return decoder_of(guessable_llama())


def trees(decoder, shape: str, rule: str = "token", drawn: bool = False, d2t=None) -> TreeDecoder:
    target = StaticModel(decoder)
    drafter = HeadDrafter(guessing(decoder, d2t), target)
    return TreeDecoder(target, drafter, SHAPES[shape], rule=rule, drawn=drawn)


def plain(decoder, requests: list[Request], rule: str = "token") -> list[list[int]]:
    results = PlainDecoder(StaticModel(decoder), rule=rule).generate(requests)
    return [result.tokens for result in results]


@pytest.mark.parametrize("vocab", [VOCAB, 60], ids=["whole", "smaller"])
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_output_is_plain_decodings(decoder, shape, vocab):
    requests = [Request(prompt, 40, temperature=0.0) for prompt in prompts(9, 1, 70)]
    d2t = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(0))[:vocab]
    found = trees(decoder, shape, d2t=d2t).generate(requests)
    assert [result.tokens for result in found] == plain(decoder, requests)
    assert sum(sum(result.accepted) for result in found) > 10  # paths were kept
    assert max(len(result.accepted) for result in found) < 40


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_output_is_plain_decodings_in_bf16_too(shape):
    """A node has the bits that it would have alone: a rounding more would soon be another token."""
    decoder = decoder_of(guessable_llama().to(torch.bfloat16)).pack()
    requests = [Request(prompt, 100, temperature=0.0) for prompt in prompts(9, 1, 70)]
    found = trees(decoder, shape).generate(requests)
    assert [result.tokens for result in found] == plain(decoder, requests)


@pytest.mark.parametrize("shape", SHAPES)
def test_gumbel_output_is_plain_decodings(decoder, shape):
    requests = [Request(prompt, 40, seed=i) for i, prompt in enumerate(prompts(9, 2, 30))]
    found = trees(decoder, shape, "gumbel").generate(requests)
    assert [result.tokens for result in found] == plain(decoder, requests, "gumbel")
    assert sum(sum(result.accepted) for result in found) > 5


def test_drawn_children_give_plain_greedy_output_too(decoder):
    requests = [Request(prompt, 30, temperature=0.0) for prompt in prompts(9, 30)]
    found = trees(decoder, "template", drawn=True).generate(requests)
    assert [result.tokens for result in found] == plain(decoder, requests)


@pytest.mark.parametrize("rule", ["token", "block"])
def test_a_chain_of_drawn_tokens_is_a_tree(decoder, rule):
    """Sampling: the same seeds, the same drafts, the same verdicts as a draft of fixed length."""
    from tapout_engine import Controller, SpeculativeDecoder

    requests = [Request(prompt, 30, seed=i) for i, prompt in enumerate(prompts(9, 30))]
    found = trees(decoder, "chain", rule, drawn=True).generate(requests)
    target = StaticModel(decoder)
    controller = Controller((("fixed_length", {"n": 3}),), slots=3, policy="fixed")
    drafter = HeadDrafter(guessing(decoder), target)
    chain = SpeculativeDecoder(target, drafter, controller, rule=rule).generate(requests)
    assert found[0].accepted[:3] == chain[0].accepted[:3]  # until the budget cuts a chain short
    assert [r.tokens[:20] for r in found] == [r.tokens[:20] for r in chain]


def test_the_cache_holds_what_plain_decoding_leaves(decoder):
    """Keys, values and hidden states of every confirmed token, after rounds of accepted paths."""
    (prompt,), found = prompts(9), trees(decoder, "eagle2")
    result = found.generate([Request(prompt, 40, temperature=0.0)])[0]
    length = found.target.cached[0]
    whole = StaticModel(decoder)
    whole.keep_states()
    whole.prefill([[*prompt, *result.tokens][: length + 1]])
    for one in (found.target, whole):
        one.held = (one.cache.entries[..., :length, :], one.states[:, :length])
    torch.testing.assert_close(found.target.held, whole.held, rtol=1e-4, atol=1e-4)


def test_requests_end_where_they_would(decoder):
    requests = [
        Request(prompt, n, temperature=0.0) for prompt, n in zip(prompts(5, 5), (1, 7), strict=True)
    ]
    found = trees(decoder, "eagle2").generate(requests)
    assert [len(result.tokens) for result in found] == [1, 7]
    assert [result.finish_reason for result in found] == ["length", "length"]
    expected = plain(decoder, [Request(requests[1].prompt, 30, temperature=0.0)])[0]
    ending = Request(requests[1].prompt, 30, temperature=0.0, eos=(expected[4],))
    result = trees(decoder, "eagle2").generate([ending])[0]
    assert result.finish_reason == "eos"
    assert result.tokens == expected[: expected.index(expected[4]) + 1]


def test_a_context_ends_a_trees_depth_early():
    decoder = decoder_of(tiny_llama(seed=1, layers=1, positions=32))
    (prompt,) = prompts(20)
    result = trees(decoder, "eagle2").generate([Request(prompt, 50, temperature=0.0)])[0]
    assert len(prompt) + len(result.tokens) == 32 - 4
    assert result.tokens == plain(decoder, [Request(prompt, 8, temperature=0.0)])[0]


def test_what_cannot_draft_or_verify_trees_is_refused(decoder):
    target = StaticModel(decoder)
    with pytest.raises(EngineError, match="drafter must be a TreeDrafter, got a StaticModel"):
        TreeDecoder(target, StaticModel(decoder), SHAPES["chain"])
    drafter = HeadDrafter(guessing(decoder), target)
    with pytest.raises(EngineError, match="target must be a TreeTarget, got a HeadDrafter"):
        TreeDecoder(drafter, drafter, SHAPES["chain"])
    drafter.vocab_size = 95
    with pytest.raises(EngineError, match="vocabulary of 96 tokens, got one of 95"):
        TreeDecoder(target, drafter, SHAPES["chain"])
    with pytest.raises(EngineError, match="drawn children need rule token or block, got greedy"):
        trees(decoder, "chain", "greedy", drawn=True)


@pytest.fixture
def head_dir(llama, tmp_path) -> Path:
    head = trainable(decoder_of(llama))
    d2t = torch.arange(VOCAB).int()
    save_head(tmp_path / "head.safetensors", head.config, head.weights(), d2t, "tiny")
    return tmp_path


def test_the_command_line_grows_trees(model_dir, head_dir, capsys):
    common = ["generate", "--target", str(model_dir), "--draft", str(head_dir), "--prompt", "abcd",
              "--tree", "eagle2", "--max-new-tokens", "20"]  # fmt: skip
    assert main([*common, "--nodes", "8", "--compare", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["result"]["tokens"] == found["plain"]["tokens"]
    assert (found["tree"], found["nodes"], found["slots"]) == ("eagle2", 8, 3)
    assert found["result"]["drafted"][0] == 8
    assert found["divergence"] is found["bandit"] is None
    assert main([*common, "--compare", "--slots", "3"]) == 0
    text = capsys.readouterr().out
    assert "tree eagle2; nodes 32; depth 3" in text
    assert "equal to plain greedy decoding: yes" in text
    arms = ["--arms", "fixed_length:n=1,survival:threshold=0.5", "--bandit", "exp3"]
    assert main([*common, "--nodes", "8", *arms, "--json"]) == 0
    learned = json.loads(capsys.readouterr().out)
    assert learned["bandit"] == "exp3"
    assert sum(arm["pulls"] for arm in learned["arms"]) == len(learned["result"]["drafted"])
    assert learned["result"]["tokens"] == found["result"]["tokens"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--arms", "svip"], "rules of trees are fixed_length and survival, got svip"),
        (["--arms", "fixed_length:n=0"], "a tree has at least one level"),
        (["--loop", "eager"], "--loop is for chains"),
        (["--draft", "prompt-lookup"], "drafter must be a TreeDrafter"),
        (["--slots", "1"], "nodes must be in"),
    ],
)
def test_what_has_no_tree_is_refused(model_dir, head_dir, capsys, given, message):
    tree = ["generate", "--target", str(model_dir), "--prompt", "abcd", "--tree", "eagle2"]
    draft = [] if "--draft" in given else ["--draft", str(head_dir)]
    assert main([*tree, *draft, *given]) == 2
    assert message in capsys.readouterr().err
