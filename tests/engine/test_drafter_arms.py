"""Arms that are drafters: who drafts, in batches, without a change to what is emitted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.arms import DRAFTER_ARMS, parse_arms
from tapout_engine.slot_cost import ForwardTime, forward_time, verify_cost

VOCAB = 6  # small enough for n-grams to come back
PROMPTS = ([1, 2, 3, 1, 2, 3], [4, 4], [5, 1, 0], [2] * 7)


def drafters(noise: float = 0.6) -> dict:
    return {
        "draft": ToyLM(VOCAB, noise=noise),
        "worse": ToyLM(VOCAB, noise=3.0),
        "prompt-lookup": PromptLookupDrafter(VOCAB),
    }


def requests(temperature: float = 0.0) -> list[Request]:
    return [
        Request(prompt, max_new_tokens=30 + 7 * i, temperature=temperature, seed=i)
        for i, prompt in enumerate(PROMPTS)
    ]


def tokens_of(results) -> list[list[int]]:
    assert [result.error for result in results] == [None] * len(results)
    return [result.tokens for result in results]


MIXED = (
    ("fixed_length", {"n": 3}, ("draft",)),
    ("svip", {}, ("worse",)),
    ("fixed_length", {"n": 4}, ("prompt-lookup",)),
    ("max_confidence", {}, ("prompt-lookup", "draft")),
    ("fixed_length", {"n": 0}, ("draft",)),
)


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("rule", ["token", "block", "gumbel", "greedy"])
def test_greedy_batches_equal_plain_decoding(rule, early_exit):
    target = ToyLM(VOCAB)
    decoder = SpeculativeDecoder(
        target, drafters(), Controller(MIXED, slots=4, reward="throughput"), rule=rule,
        early_exit=early_exit,
    )  # fmt: skip
    results = decoder.generate(requests())
    assert tokens_of(results) == tokens_of(PlainDecoder(target).generate(requests()))
    assert {arm for result in results for arm in result.arms} == set(range(len(MIXED)))
    assert sum(sum(result.accepted) for result in results) > 0


def test_gumbel_samples_do_not_depend_on_who_drafts():
    target = ToyLM(VOCAB)
    plain = tokens_of(PlainDecoder(target, rule="gumbel").generate(requests(1.1)))
    decoder = SpeculativeDecoder(
        target, drafters(), Controller(MIXED, slots=4, reward="throughput"), rule="gumbel"
    )
    assert tokens_of(decoder.generate(requests(1.1))) == plain


def test_early_exit_changes_no_token():
    def run(early_exit: bool) -> list[list[int]]:
        controller = Controller(MIXED, slots=4, reward="throughput")
        decoder = SpeculativeDecoder(ToyLM(VOCAB), drafters(), controller, early_exit=early_exit)
        return tokens_of(decoder.generate(requests(1.0)))

    assert run(True) == run(False)


@pytest.mark.parametrize("arm", range(len(MIXED)))
def test_one_arm_is_that_drafter_alone(arm):
    """Among others, a drafter that every round chooses says what it says by itself."""
    rule = MIXED[arm][:2]
    names = MIXED[arm][2]
    among = SpeculativeDecoder(
        ToyLM(VOCAB), drafters(), Controller(MIXED, slots=4, policy="fixed", arm=arm)
    )
    results = among.generate(requests(0.8))
    if len(names) == 1:
        alone = SpeculativeDecoder(ToyLM(VOCAB), drafters()[names[0]], Controller((rule,), slots=4))
        expected = alone.generate(requests(0.8))
        assert tokens_of(results) == tokens_of(expected)
        assert [r.drafted for r in results] == [r.drafted for r in expected]
        assert [r.accepted for r in results] == [r.accepted for r in expected]
    assert {a for result in results for a in result.arms} == {arm}


def test_the_first_drafter_that_offers_something_drafts():
    controller = Controller(MIXED, slots=4)
    controller.bind(["draft", "worse", "prompt-lookup"])
    controller.admit([0] * 6)
    controller.state.arm.copy_(torch.tensor([3, 3, 2, 2, 1, 0]))
    lookup = [True, False, True, False, True, True]
    assert controller.drafters_of_rows([None, None, lookup]) == [2, 0, 2, 2, 1, 0]


def test_lookup_is_used_where_it_finds_something_and_the_draft_elsewhere():
    both = (("fixed_length", {"n": 4}, ("prompt-lookup", "draft")),)
    decoder = SpeculativeDecoder(
        ToyLM(VOCAB), drafters(), Controller(both, slots=4), early_exit=True
    )
    used: set[tuple[int, ...]] = set()

    def watch(row: int, tokens: list[int], text: str) -> None:
        used.add(tuple(decoder.lanes.index(lane) for lane in decoder.drafted))

    results = decoder.generate([Request([0, 1, 2, 3], 40), Request([5], 40)], watch)
    assert (2,) in used or (0, 2) in used
    assert (0,) in used or (0, 2) in used
    assert not any(1 in lanes for lanes in used)
    assert all(n for result in results for n in result.drafted[:1])


def test_arms_are_charged_what_their_drafter_costs():
    """Equal drafts, one three times as dear: the bandit comes to prefer the other."""
    cheap, dear = ToyLM(VOCAB), ToyLM(VOCAB)
    cheap.cost, dear.cost = 0.1, 0.9
    arms = tuple(("fixed_length", {"n": 4}, (name,)) for name in ("dear", "cheap"))
    controller = Controller(arms, slots=4, reward="throughput")
    decoder = SpeculativeDecoder(ToyLM(VOCAB), {"dear": dear, "cheap": cheap}, controller)
    decoder.generate([Request([1], 600)])
    first, second = controller.report()
    assert second.pulls > 3 * first.pulls
    assert (first.label, second.label) == ("dear/fixed_length(n=4)", "cheap/fixed_length(n=4)")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_slot_more_costs_a_token_in_every_row(batch):
    draft = ToyLM(VOCAB)
    draft.cost = 0.1
    told = 0.1 + verify_cost(batch, 8, ToyLM(VOCAB))
    decoder = SpeculativeDecoder(ToyLM(VOCAB), draft, Controller(reward="throughput"))
    decoder.generate([Request([1], 20) for _ in range(batch)])
    (lane,) = decoder.lanes
    assert lane.learner.cost_ratio.item() == pytest.approx(told)
    bandit = decoder.controller.bandit
    rounds, drafted = bandit.count.sum().item(), (bandit.cost.sum() - bandit.count.sum()).item()
    assert rounds > 0
    assert drafted / lane.learner.cost_ratio.item() == pytest.approx(
        round(drafted / lane.learner.cost_ratio.item())
    )


def test_tokens_are_nearly_free_until_arithmetic_takes_as_long_as_the_weights():
    time = ForwardTime(0.5, 0.1)
    assert [time.of(n) for n in (1, 5, 6, 15)] == [1.0, 1.0, pytest.approx(1.1), pytest.approx(2)]
    first = []
    for device, dtype in (("cpu", torch.float32), ("cpu", torch.bfloat16), ("cuda", torch.float32)):
        target = SimpleNamespace(device=torch.device(device), dtype=dtype)
        costs = [verify_cost(batch, 8, target) for batch in (1, 4, 64, 4096)]
        assert costs == sorted(costs)
        assert costs[0] == (forward_time(target).of(9) - 1) / 8
        assert costs[-1] == pytest.approx(1.0, rel=0.01)  # all arithmetic: a token is a token
        first.append(costs[0])
    assert verify_cost(16, 8, target) == 0.0
    assert min(first[:2]) > first[2]


def test_drafters_that_are_not_there_are_refused():
    with pytest.raises(EngineError, match="drafters must be among draft, got worse"):
        SpeculativeDecoder(
            ToyLM(VOCAB), {"draft": ToyLM(VOCAB)}, Controller((("svip", {}, ("worse", "draft")),))
        )


@pytest.mark.parametrize(
    "policy", ["ucbspec", "exp3", "exp3spec", "hedge", "normalhedge", "metasd"]
)
def test_every_controller_decodes(policy):
    target, arms = ToyLM(VOCAB), tuple(("fixed_length", {"n": n}) for n in (0, 1, 2, 8))
    controller = Controller(arms, slots=8, policy=policy)
    decoder = SpeculativeDecoder(target, ToyLM(VOCAB, noise=1.0), controller)
    results = decoder.generate(requests())
    assert tokens_of(results) == tokens_of(PlainDecoder(target).generate(requests()))
    report = controller.report()
    assert sum(arm.pulls for arm in report) == sum(len(result.arms) for result in results)
    assert all(arm.pulls > 0 for arm in report)
    assert report[0].value == 0.0 < max(arm.value for arm in report) <= 1.0


def test_arms_as_people_type_them():
    assert parse_arms("prompt-lookup|draft/svip:threshold=0.5, draft/fixed_length:n=0, svip") == (
        ("svip", {"threshold": 0.5}, ("prompt-lookup", "draft")),
        ("fixed_length", {"n": 0.0}, ("draft",)),
        ("svip", {}),
    )


def test_the_default_table_names_two_drafters():
    assert {name for arm in DRAFTER_ARMS for name in arm[2]} == {"draft", "prompt-lookup"}
