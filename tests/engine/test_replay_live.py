"""A replay chooses the arms and emits the lengths that live decoding does, round by round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tapout_engine import Controller, Request, SpeculativeDecoder
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.arms import TAPOUT_ARMS
from tapout_engine.replay import Play, Player, measured_costs
from tapout_engine.slot_cost import verify_cost
from tapout_engine.traces.recorder import Recorder

from .recording import record
from .test_traces import llama_setup

VOCAB, SLOTS = 6, 4
PROMPTS = ([1, 2, 3, 1, 2, 3], [4, 4], [5, 1, 0], [2] * 7, [0, 3])
ARMS = (
    ("fixed_length", {"n": 3}, ("draft",)),
    ("svip", {"threshold": 1.1}, ("worse",)),
    ("fixed_length", {"n": 4}, ("prompt-lookup",)),
    ("max_confidence", {"threshold": 0.5}, ("prompt-lookup", "draft")),
    ("fixed_length", {"n": 0}, ("draft",)),
    ("adaedl", {}, ("draft",)),
    ("hysteresis", {"high": 1.0, "low": 0.7, "probe_every": 3}, ("draft",)),
    ("gammatune", {}, ("worse",)),
)
POLICIES = [
    ("ucb1", "blend", {}),
    ("ucb1", "throughput", {"discount": 0.98}),
    ("ucb_tuned", "simple", {}),
    ("thompson_gaussian", "throughput", {}),
    ("thompson_beta", "blend", {}),
    ("epsilon_greedy", "throughput", {"epsilon": 0.3}),
    ("ucbspec", "simple", {}),
    ("exp3", "blend", {}),
    ("exp3spec", "simple", {}),
]


def drafters() -> dict:
    found = {
        "draft": ToyLM(VOCAB, noise=0.6), "worse": ToyLM(VOCAB, noise=3.0),
        "prompt-lookup": PromptLookupDrafter(VOCAB),
    }  # fmt: skip
    found["draft"].cost, found["worse"].cost = 0.3, 0.1
    return found


def requests(temperature: float) -> list[Request]:
    return [
        Request(prompt, 40 + 9 * i, temperature, seed=i, eos=(0,) if i % 2 else ())
        for i, prompt in enumerate(PROMPTS)
    ]


def live_costs(player: Player, batch: int = 1):
    """The bandit is told what live decoding tells it, whatever rounds cost."""
    costs = measured_costs(player.meta, batch)
    alone, together = (verify_cost(rows, player.meta.slots, ToyLM(VOCAB)) for rows in (1, batch))
    told = np.array(player.meta.cost_ratio) + together - alone
    ratio = np.tile(told.astype(np.float32), (batch, 1))
    return replace(costs, ratio=ratio)


def assert_equal(rounds, results, player: Player) -> None:
    request = player.trace.request[rounds.position]
    for index, result in enumerate(results):
        own = request == index
        assert rounds.arm[own].tolist() == result.arms
        assert rounds.drafted[own].tolist() == result.drafted
        emitted = np.minimum(rounds.accepted[own], rounds.emitted[own])
        assert emitted.tolist() == result.accepted
        assert rounds.emitted[own].sum() == len(result.tokens)


@pytest.mark.parametrize(("rule", "temperature"), [("greedy", 0.0), ("gumbel", 1.1)])
@pytest.mark.parametrize(("policy", "reward", "settings"), POLICIES)
def test_one_request_after_the_other(rule, temperature, policy, reward, settings):
    player = Player(record(Recorder(ToyLM(VOCAB), drafters(), SLOTS, rule), requests(temperature)))
    play = Play("", ARMS, policy, reward, settings=settings)
    order = np.arange(len(PROMPTS))
    rounds = player.play(play, order, live_costs(player), seed=5)
    controller = Controller(ARMS, SLOTS, policy, reward, seed=5, **settings)
    decoder = SpeculativeDecoder(ToyLM(VOCAB), drafters(), controller, rule=rule)
    results = [decoder.generate([request])[0] for request in requests(temperature)]
    assert {result.finish_reason for result in results} == {"length", "eos"}
    assert set(rounds.arm) == set(range(len(ARMS))), "every arm is played"
    assert_equal(rounds, results, player)
    pulls = [arm.pulls for arm in controller.report()]
    if "discount" not in settings:
        assert np.bincount(rounds.arm, minlength=len(ARMS)).tolist() == pulls


@pytest.mark.parametrize(("policy", "reward", "settings"), [*POLICIES[:4], *POLICIES[6:8]])
def test_requests_together(policy, reward, settings):
    """Rows of a batch share the bandit: pulls of the same round are pending."""
    player = Player(record(Recorder(ToyLM(VOCAB), drafters(), SLOTS, "gumbel"), requests(0.9)))
    batch = len(PROMPTS)
    play = Play("", ARMS, policy, reward, settings=settings)
    costs = live_costs(player, batch)
    rounds = player.play(play, np.arange(batch), costs, batch, seed=5)
    controller = Controller(ARMS, SLOTS, policy, reward, seed=5, **settings)
    decoder = SpeculativeDecoder(ToyLM(VOCAB), drafters(), controller, rule="gumbel")
    assert_equal(rounds, decoder.generate(requests(0.9)), player)


@pytest.mark.parametrize("policy", ["hedge", "normalhedge"])
def test_hedges_over_the_rules_of_one_drafter(policy):
    arms = tuple((*arm[:2], ("draft",)) for arm in ARMS)
    player = Player(record(Recorder(ToyLM(VOCAB), drafters(), SLOTS), requests(0.0)))
    order = np.arange(len(PROMPTS))
    rounds = player.play(Play("", arms, policy, "simple"), order, live_costs(player), seed=5)
    decoder = SpeculativeDecoder(
        ToyLM(VOCAB), drafters(), Controller(arms, SLOTS, policy, "simple", seed=5), rule="greedy"
    )
    assert_equal(rounds, [decoder.generate([request])[0] for request in requests(0.0)], player)


@pytest.mark.parametrize(("policy", "batch", "rule", "temperature", "stop"), [
    ("hedge", 1, "greedy", 0.0, ("fixed_length", {"n": 3})),
    ("normalhedge", 1, "gumbel", 0.9, ("max_confidence", {})),
    ("hedge", len(PROMPTS), "gumbel", 0.9, ("max_confidence", {})),
    ("normalhedge", len(PROMPTS), "greedy", 0.0, ("fixed_length", {"n": 3})),
])  # fmt: skip
def test_hedges_over_drafters(policy, batch, rule, temperature, stop):
    """One after the other, or all at once; what they learnt is the same to the last digits."""
    arms = tuple((*stop, (name,)) for name in drafters())
    player = Player(record(Recorder(ToyLM(VOCAB), drafters(), SLOTS, rule), requests(temperature)))
    play, order = Play("", arms, policy), np.arange(len(PROMPTS))
    rounds = player.play(play, order, live_costs(player, batch), batch, seed=5)
    controller = Controller(arms, SLOTS, policy, seed=5)
    decoder = SpeculativeDecoder(ToyLM(VOCAB), drafters(), controller, rule=rule)
    asked = requests(temperature)
    together = [asked] if batch > 1 else [[request] for request in asked]
    results = [result for some in together for result in decoder.generate(some)]
    assert_equal(rounds, results, player)
    assert set(rounds.arm) == {0, 1, 2}
    pulls = [arm.pulls for arm in controller.report()]
    assert np.bincount(rounds.arm, minlength=3).tolist() == pulls


@pytest.mark.parametrize(("rule", "temperature"), [("greedy", 0.0), ("gumbel", 0.7)])
def test_a_language_model_and_its_head(rule, temperature):
    names = {"fixed_length": ("head",), "svip": ("prompt-lookup", "head"), "adaedl": ("self",)}
    arms = tuple((*arm, names.get(arm[0], ("prompt-lookup", "self"))) for arm in TAPOUT_ARMS)
    generator = np.random.default_rng(1)
    asked = [
        Request(generator.integers(2, 96, 9 + 7 * i).tolist(), 48, temperature, seed=i)
        for i in range(2)
    ]
    player = Player(record(Recorder(*llama_setup(), SLOTS, rule), asked))
    rounds = player.play(
        Play("", arms, "thompson_gaussian", "blend"), np.arange(2), live_costs(player), seed=2
    )
    controller = Controller(arms, SLOTS, "thompson_gaussian", "blend", seed=2)
    decoder = SpeculativeDecoder(*llama_setup(), controller, rule=rule)
    results = [decoder.generate([request])[0] for request in asked]
    assert max(rounds.accepted) > 1
    assert_equal(rounds, results, player)
