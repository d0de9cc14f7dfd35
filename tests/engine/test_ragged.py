"""Batches without padding: every row's tokens are those it gets alone, and beside padding."""

from __future__ import annotations

import pytest
import torch

from tapout_engine import Controller, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.engine import RaggedTarget, Target
from tapout_engine.models.weights import decoder_of

from .conftest import tiny_llama
from .heads import prompts

VOCAB = 96
ARMS = (("fixed_length", {"n": 3}), ("svip", {"threshold": 0.5}), ("fixed_length", {"n": 1}))
TWO = (
    ("fixed_length", {"n": 3}, ("draft",)),
    ("fixed_length", {"n": 4}, ("lookup",)),
    ("max_confidence", {}, ("draft",)),
)


class Padded(StaticModel):
    """A target that computes padding."""

    forward_ragged = None


@pytest.fixture(scope="module")
def decoder():
    return decoder_of(tiny_llama(seed=1)).pack()


@pytest.fixture(scope="module")
def draft():
    return decoder_of(tiny_llama(seed=1, perturb=0.3, layers=2)).pack()


def counted(decoder) -> StaticModel:
    """A target that notes the counts it is asked for."""
    target = StaticModel(decoder)
    target.asked = []
    forward = target.forward_ragged

    def forward_ragged(input_ids, counts):
        target.asked.append(list(counts))
        return forward(input_ids, counts)

    target.forward_ragged = forward_ragged
    return target


def speculative(target, draft, arms=ARMS, rule: str = "token", **options) -> SpeculativeDecoder:
    drafter = StaticModel(draft)
    if arms is TWO:
        drafter = {"draft": drafter, "lookup": PromptLookupDrafter(VOCAB)}
    return SpeculativeDecoder(target, drafter, Controller(arms, slots=4, **options), rule=rule)


def requests(temperature: float, seed: int = 0) -> list[Request]:
    """Of different lengths; repetitive ones, so that a lookup finds something."""
    asked = [[5, 6, 7] * 4, *prompts(2, 30, 9)]
    return [
        Request(prompt, new, temperature=temperature, seed=seed)
        for prompt, new in zip(asked, (40, 5, 21, 12), strict=True)
    ]


def tokens_of(results) -> list[list[int]]:
    assert [result.error for result in results] == [None] * len(results)
    return [result.tokens for result in results]


def rounds_of(results) -> list[tuple]:
    return [(r.tokens, r.arms, r.drafted, r.accepted, r.stop_reasons) for r in results]


def test_what_hides_its_ragged_forward_is_no_ragged_target(decoder):
    assert isinstance(StaticModel(decoder), RaggedTarget)
    assert isinstance(Padded(decoder), Target)
    assert not isinstance(Padded(decoder), RaggedTarget)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("arms", [ARMS, TWO], ids=["one drafter", "two drafters"])
def test_padding_changes_no_round(decoder, draft, arms, temperature, seed):
    """One bandit learns from all rows: had one number differed, so would what comes after."""
    target, asked = counted(decoder), requests(temperature, seed)
    found = speculative(target, draft, arms).generate(asked)
    expected = speculative(Padded(decoder), draft, arms).generate(asked)
    assert rounds_of(found) == rounds_of(expected)
    assert any(len(set(counts)) > 2 for counts in target.asked), "rows drafted alike"
    # The last request goes on alone beside rows that have ended.
    assert [count > 0 for count in target.asked[-1]].count(True) == 1
    lanes = {arms[arm][2] for r in found for arm in r.arms} if arms is TWO else {1, 2}
    assert len(lanes) == 2


@pytest.mark.parametrize("rule", ["token", "block", "gumbel", "greedy"])
def test_every_rule_reads_ragged_rows_as_padded_ones(decoder, draft, rule):
    asked = requests(0.9, seed=5)
    found = speculative(StaticModel(decoder), draft, TWO, rule).generate(asked)
    expected = speculative(Padded(decoder), draft, TWO, rule).generate(asked)
    assert rounds_of(found) == rounds_of(expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_is_decoded_as_it_is_alone(decoder, draft, temperature):
    def fixed() -> SpeculativeDecoder:
        return speculative(StaticModel(decoder), draft, policy="fixed")

    asked = requests(temperature, seed=3)
    together, one_by_one = fixed().generate(asked), fixed()
    alone = [one_by_one.generate([request])[0] for request in asked]
    assert rounds_of(together) == rounds_of(alone)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_of_two_drafters_says_what_it_says_alone(decoder, draft, temperature):
    """Gumbel noise is the sequence's own, so that who drafts changes no token."""
    asked = requests(temperature, seed=4)
    together = speculative(StaticModel(decoder), draft, TWO, "gumbel").generate(asked)
    one_by_one = speculative(StaticModel(decoder), draft, TWO, "gumbel")
    alone = [one_by_one.generate([request])[0] for request in asked]
    assert tokens_of(together) == tokens_of(alone)
    plain = PlainDecoder(StaticModel(decoder), rule="gumbel").generate(asked)
    # Keys are of a request's number in its decoder, which is the same in all three.
    assert tokens_of(together) == tokens_of(plain)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_plain_rows_are_those_of_padding_and_those_alone(decoder, temperature, seed):
    target, asked = counted(decoder), requests(temperature, seed)
    found = tokens_of(PlainDecoder(target).generate(asked))
    assert found == tokens_of(PlainDecoder(Padded(decoder)).generate(asked))
    one_by_one = PlainDecoder(StaticModel(decoder))
    assert found == [tokens_of(one_by_one.generate([request]))[0] for request in asked]
    assert {sum(counts) for counts in target.asked} == {1, 2, 3}, "rows end one after the other"


ROUNDS = (  # tokens fed, drafts accepted, tokens confirmed after them
    ([3, 0, 5], [1, 0, 4], [1, 0, 1]),
    ([0, 0, 2], [0, 0, 0], [3, 4, 1]),  # two rows get what they were never fed
    ([4, 2, 0], [2, 1, 0], [1, 1, 2]),
    ([0, 5, 0], [0, 0, 0], [1, 0, 0]),
    ([0, 0, 0], [0, 0, 0], [2, 1, 0]),
    ([1, 1, 1], [0, 0, 0], [1, 1, 1]),
)


def test_rows_may_be_fed_nothing(decoder):
    """Among them all but one, and all: a row gets what a fresh model says of its tokens."""
    ragged, sequences = StaticModel(decoder), prompts(9, 1, 30)
    ragged.prefill(sequences)
    generator = torch.Generator().manual_seed(3)
    for counts, accepted, more in ROUNDS:
        ids = torch.randint(2, VOCAB, (3, max(counts)), generator=generator)
        if ids.numel():
            ids[:, 0] = torch.tensor([sequence[-1] for sequence in sequences])
            found = ragged.forward_ragged(ids, counts)
            fresh = Padded(decoder)
            fresh.prefill(sequences)
            rows = fresh.forward(ids)
            expected = [row[:count] for row, count in zip(rows, counts, strict=True)]
            assert torch.equal(found, torch.cat(expected)), counts
        emitted = []
        for row, (right, new) in enumerate(zip(accepted, more, strict=True)):
            emitted.append([*ids[row, 1 : 1 + right].tolist(), *range(10 + row, 10 + row + new)])
            sequences[row] = sequences[row] + emitted[-1]
        ragged.commit(emitted)
