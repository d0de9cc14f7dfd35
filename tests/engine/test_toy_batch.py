"""Batches of toy rows: equality, law, independence of rows, random keys."""

from __future__ import annotations

import itertools

import pytest
import torch

import tapout_kernels as tk
from tapout_engine import (
    TAPOUT_ARMS,
    Controller,
    EngineError,
    PlainDecoder,
    Request,
    SpeculativeDecoder,
)
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM

PROMPTS = ([1], [2, 3], [4, 5, 6, 7], [9] * 9)
FIXED_2 = (("fixed_length", {"n": 2}),)


def requests(temperature: float = 0.0, **settings) -> list[Request]:
    return [
        Request(prompt, max_new_tokens=20 + 5 * i, temperature=temperature, **settings)
        for i, prompt in enumerate(PROMPTS)
    ]


def tokens_of(results) -> list[list[int]]:
    assert [result.error for result in results] == [None] * len(results)
    return [result.tokens for result in results]


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("rule", ["token", "block", "gumbel", "greedy"])
@pytest.mark.parametrize("noise", [0.0, 0.6, 5.0])
@pytest.mark.sliced(4)
def test_greedy_batch_equals_plain_decoding(rule, slots, noise, early_exit):
    target = ToyLM()
    plain = tokens_of(PlainDecoder(target).generate(requests()))
    decoder = SpeculativeDecoder(
        target, ToyLM(noise=noise), Controller(slots=slots), rule=rule, early_exit=early_exit
    )
    results = decoder.generate(requests())
    assert tokens_of(results) == plain
    accepted = [sum(result.accepted) for result in results]
    if noise == 0.0:
        assert all(result.accepted == result.drafted for result in results)
    if noise == 0.6:
        assert len(set(accepted)) > 1, "rows must differ in acceptance"
        assert any(result.accepted != result.drafted for result in results)


def test_prompt_lookup_batch_equals_plain_decoding():
    target = ToyLM(vocab_size=6)  # small enough for n-grams to come back
    decoder = SpeculativeDecoder(target, PromptLookupDrafter(6), Controller(FIXED_2))
    prompts = [[1, 2, 3, 1, 2, 3], [4, 4], [5, 1, 0], [2] * 7]
    batch = [Request(prompt, max_new_tokens=40) for prompt in prompts]
    results = decoder.generate(batch)
    assert tokens_of(results) == tokens_of(PlainDecoder(target).generate(batch))
    assert sum(map(sum, (result.accepted for result in results))) > 0


def test_a_drafter_follows_rows_that_another_one_drafted_for():
    """It was fed what its own lane said of them, which is not what they became."""
    target = ToyLM(vocab_size=6)
    arms = (("fixed_length", {"n": 3}, ("toy",)), ("fixed_length", {"n": 3}, ("lookup",)))
    drafters = {"toy": ToyLM(vocab_size=6), "lookup": PromptLookupDrafter(6)}
    decoder = SpeculativeDecoder(target, drafters, Controller(arms, slots=4))
    prompts = [[1, 2, 3, 1, 2, 3], [4, 4], [5, 1, 0], [2] * 7]
    results = decoder.generate([Request(prompt, max_new_tokens=60) for prompt in prompts])
    rounds = [
        played
        for result in results
        for played in zip(result.arms, result.drafted, result.accepted, strict=True)
    ]
    assert any(arm == 1 and accepted > 1 for arm, _, accepted in rounds)
    assert all(arm == 1 or accepted == drafted for arm, drafted, accepted in rounds)


def test_greedy_rule_ignores_temperature():
    target = ToyLM()
    decoder = SpeculativeDecoder(target, ToyLM(noise=0.6), Controller(), rule="greedy")
    hot = decoder.generate(requests(temperature=3.0, top_k=2))
    assert tokens_of(hot) == tokens_of(PlainDecoder(target).generate(requests()))


@pytest.mark.parametrize("noise", [0.0, 0.6, 5.0])
def test_gumbel_tokens_depend_on_no_drafter(noise):
    """Sampled, filtered and still token for token what the target alone would have said."""
    target, hot = ToyLM(), {"temperature": 1.2, "top_p": 0.9, "min_p": 0.01}
    plain = tokens_of(PlainDecoder(target, rule="gumbel").generate(requests(**hot)))
    for slots in (1, 4):
        drafter, controller = ToyLM(noise=noise), Controller(slots=slots, policy="thompson_beta")
        decoder = SpeculativeDecoder(target, drafter, controller, rule="gumbel")
        assert tokens_of(decoder.generate(requests(**hot))) == plain


def test_early_exit_changes_no_token():
    def run(early_exit: bool) -> list[list[int]]:
        decoder = SpeculativeDecoder(ToyLM(), ToyLM(noise=0.6), Controller(), early_exit=early_exit)
        return tokens_of(decoder.generate(requests(temperature=1.0)))

    assert run(True) == run(False)


def test_a_row_does_not_depend_on_the_batch_around_it():
    def decoder() -> SpeculativeDecoder:
        return SpeculativeDecoder(ToyLM(), ToyLM(noise=0.6), Controller(FIXED_2))

    asked = [
        Request(prompt, max_new_tokens=15 + i, temperature=t, top_k=k, top_p=p, seed=i)
        for i, (prompt, t, k, p) in enumerate(
            zip(PROMPTS, (1.0, 0.0, 0.7, 1.3), (0, 0, 5, 0), (1.0, 1.0, 0.9, 0.5), strict=True)
        )
    ]
    together = decoder().generate(asked)
    one_by_one = decoder()
    alone = [one_by_one.generate([request])[0] for request in asked]
    assert tokens_of(together) == tokens_of(alone)
    assert [r.accepted for r in together] == [r.accepted for r in alone]
    assert [r.key for r in together] == [r.key for r in alone]


def test_sampling_parameters_hold_for_each_row():
    target = ToyLM()
    batch = [Request([7], max_new_tokens=30, temperature=1.0, top_k=k) for k in (0, 1, 3)]
    results = SpeculativeDecoder(target, ToyLM(noise=0.6), Controller()).generate(batch)
    greedy = PlainDecoder(target).generate([Request([7], max_new_tokens=30)])[0]
    assert results[1].tokens == greedy.tokens
    assert results[0].tokens != greedy.tokens
    target.prefill([[7]])
    logits = target.forward(torch.tensor([[7, *results[2].tokens[:-1]]]))[0]
    best = logits.topk(3).indices.tolist()
    assert all(token in row for token, row in zip(results[2].tokens, best, strict=True))


def test_equal_user_seeds_get_different_keys():
    decoder = SpeculativeDecoder(ToyLM(), ToyLM(noise=0.6), Controller())
    first = decoder.generate([Request([1], 20, 1.0, seed=5), Request([1], 20, 1.0, seed=5)])
    later = decoder.generate([Request([1], 20, 1.0, seed=5)])
    keys = [result.key for result in (*first, *later)]
    assert keys == [tk.mix64(5, ordinal) for ordinal in range(3)]
    assert len(set(keys)) == 3
    assert len({tuple(result.tokens) for result in (*first, *later)}) == 3


def test_reset_repeats_and_the_bandit_persists_without_it():
    decoder = SpeculativeDecoder(ToyLM(), ToyLM(noise=0.6), Controller())
    first = decoder.generate(requests(temperature=1.0, seed=3))
    pulls = sum(arm.pulls for arm in decoder.controller.report())
    assert pulls == sum(result.rounds for result in first)
    second = decoder.generate(requests(temperature=1.0, seed=3))
    assert sum(arm.pulls for arm in decoder.controller.report()) > pulls
    assert tokens_of(second) != tokens_of(first)
    decoder.reset()
    again = decoder.generate(requests(temperature=1.0, seed=3))
    assert tokens_of(again) == tokens_of(first)
    assert [r.arms for r in again] == [r.arms for r in first]


def test_fixed_bandit_plays_the_first_arm():
    controller = Controller(TAPOUT_ARMS, policy="fixed")
    results = SpeculativeDecoder(ToyLM(), ToyLM(noise=0.6), controller).generate(requests())
    assert {arm for result in results for arm in result.arms} == {0}
    assert all(arm.pulls == 0 for arm in controller.report()[1:])


def test_unequal_vocabularies_are_refused():
    with pytest.raises(EngineError, match="target's vocabulary of 64 tokens, got one of 60"):
        SpeculativeDecoder(ToyLM(64), ToyLM(60), Controller())


@pytest.mark.parametrize("drafter", ["toy", "lookup"])
def test_sampled_batches_follow_the_targets_law(drafter):
    """Three tokens jointly, 32 rows of equal seed at once, one bandit over 120 batches."""
    vocab, rows, calls = 4, 32, 120
    prompt, temperature = [1, 2, 1, 2], 0.9
    target = ToyLM(vocab, sharpness=0.6)
    draft = ToyLM(vocab, sharpness=0.6, noise=1.0)
    draft = draft if drafter == "toy" else PromptLookupDrafter(vocab)
    arms = (("fixed_length", {"n": 0}), ("fixed_length", {"n": 2}), ("svip", {"threshold": 1.0}))
    decoder = SpeculativeDecoder(target, draft, Controller(arms, slots=3))
    seen = dict.fromkeys(itertools.product(range(vocab), repeat=3), 0)
    for _ in range(calls):
        batch = [Request(prompt, 3, temperature, seed=11) for _ in range(rows)]
        for result in decoder.generate(batch):
            seen[tuple(result.tokens)] += 1
    law = _law(target, prompt, temperature)
    total = rows * calls
    statistic = sum((seen[path] - total * law[path]) ** 2 / (total * law[path]) for path in law)
    assert min(law.values()) * total > 3
    assert statistic < 63 + 4.5 * (2 * 63) ** 0.5  # chi-squared, 63 degrees of freedom


def _law(target: ToyLM, prompt: list[int], temperature: float) -> dict[tuple[int, ...], float]:
    law = {}
    for path in itertools.product(range(target.vocab_size), repeat=3):
        target.prefill([prompt])
        logits = target.forward(torch.tensor([[prompt[-1], *path[:-1]]]))[0].double()
        steps = (logits / temperature).softmax(-1)
        law[path] = float(steps[torch.arange(3), torch.tensor(path)].prod())
    return law
