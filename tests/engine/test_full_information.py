"""Hedges over drafters: each is asked about every token, and the text is the target's."""

from __future__ import annotations

import pytest
import torch

import tapout_kernels as tk
from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM

VOCAB = 6  # small enough for n-grams to come back
PROMPTS = ([1, 2, 3, 1, 2, 3], [4, 4], [5, 1, 0], [2] * 7)
HEDGES = ("hedge", "normalhedge")
NAMES = ("bad", "good", "prompt-lookup")


def drafters() -> dict:
    return {
        "bad": ToyLM(VOCAB, noise=5.0), "good": ToyLM(VOCAB, noise=0.3),
        "prompt-lookup": PromptLookupDrafter(VOCAB),
    }  # fmt: skip


def arms(rule: str = "fixed_length", names=NAMES, **params: float) -> tuple:
    params = params or {"n": 3} if rule == "fixed_length" else params
    return tuple((rule, params, (name,)) for name in names)


def requests(temperature: float = 0.0, new: int = 60, **fields) -> list[Request]:
    return [
        Request(prompt, new + 7 * i, temperature, seed=i, **fields)
        for i, prompt in enumerate(PROMPTS)
    ]


def decoder_of(policy: str = "hedge", rule: str = "token", slots: int = 4, table=None, **settings):
    controller = Controller(table or arms(), slots, policy, **settings)
    return SpeculativeDecoder(ToyLM(VOCAB), drafters(), controller, rule=rule)


def tokens_of(results) -> list[list[int]]:
    assert [result.error for result in results] == [None] * len(results)
    return [result.tokens for result in results]


# ---- what is emitted -----------------------------------------------------------------------------


RULES = [("hedge", "token"), ("hedge", "gumbel"), ("normalhedge", "block"),
         ("normalhedge", "greedy")]  # fmt: skip


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize(("policy", "rule"), RULES)
def test_greedy_output_equals_plain_decoding(policy, rule, early_exit):
    decoder = decoder_of(policy, rule)
    decoder.early_exit = early_exit
    for lane in decoder.lanes:
        lane.early_exit = early_exit
    results = decoder.generate(requests())
    assert tokens_of(results) == tokens_of(PlainDecoder(ToyLM(VOCAB)).generate(requests()))
    assert {arm for result in results for arm in result.arms} == {0, 1, 2}


def test_sampled_output_has_the_targets_law():
    """Two tokens jointly, 16 rows at once, one bandit over all batches."""
    rows, calls, temperature = 16, 100, 0.9
    prompt, target = [1, 2, 1, 2], ToyLM(4, sharpness=0.6)
    lanes = {
        "draft": ToyLM(4, sharpness=0.6, noise=1.0), "other": ToyLM(4, sharpness=0.6, noise=2.0),
    }  # fmt: skip
    decoder = SpeculativeDecoder(target, lanes, Controller(arms(names=lanes, n=1), 1, "hedge"))
    seen = torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(calls):
        batch = [Request(prompt, 4, temperature, seed=11) for _ in range(rows)]
        for result in decoder.generate(batch):
            seen[tuple(result.tokens[2:])] += 1
    request = Request(prompt, 4, temperature)
    law = torch.zeros(4, 4, dtype=torch.float64)
    for first in range(4):
        for second in range(4):
            text = [*prompt, first, second]
            after = [probabilities(target, [*text, third], request)[3:] for third in range(4)]
            head = after[0][0, first] * after[0][1, second]
            for third in range(4):
                law[third] += head * after[third][2, third] * after[third][3]
    expected = rows * calls * law
    statistic = float(((seen - expected) ** 2 / expected).sum())
    assert statistic < 15 + 4.5 * (2 * 15) ** 0.5  # chi-squared, 15 degrees of freedom
    assert min(arm.pulls for arm in decoder.controller.report()) > 0


def test_gumbel_samples_equal_plain_decoding():
    plain = PlainDecoder(ToyLM(VOCAB), rule="gumbel").generate(requests(1.1))
    assert tokens_of(decoder_of(rule="gumbel").generate(requests(1.1))) == tokens_of(plain)


# ---- what is learnt ------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "rule"), RULES)
def test_the_better_drafter_is_found(policy, rule):
    decoder = decoder_of(policy, rule, **({"epsilon": 0.0} if policy == "normalhedge" else {}))
    results = decoder.generate(requests(0.7, new=120))
    late = [arm for result in results for arm in result.arms[-15:]]
    assert late.count(1) > 0.8 * len(late)
    bad, good, lookup = decoder.controller.report()
    assert good.value > max(bad.value, lookup.value)
    assert good.pulls > bad.pulls + lookup.pulls
    assert sum(arm.pulls for arm in (bad, good, lookup)) == sum(len(r.arms) for r in results)


def told(rule: str, temperature: float, **fields):
    """Gammas [tokens][drafter] of one request by its drafters' own logits, and what was learnt."""
    decoder = decoder_of(rule=rule)
    request = Request(PROMPTS[0], 50, temperature, seed=3, **fields)
    known: list[torch.Tensor] = []
    observe = decoder.controller.observe

    def watch(gamma, count, live):
        known.extend(gamma[0, :, : int(count)].T)
        observe(gamma, count, live)

    decoder.controller.observe = watch
    (result,) = decoder.generate([request])
    return decoder, request, result, torch.stack(known)


def probabilities(model: ToyLM, text: list[int], request: Request) -> torch.Tensor:
    """[tokens, V]: what follows every prefix of ``text``, temperature and top-k applied."""
    model.prefill([text[:1]])
    logits = model.forward(torch.tensor([text]))[0]
    if request.top_k:
        least = logits.topk(request.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return (logits.double() / request.temperature).softmax(-1)


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("fields", [{}, {"top_k": 3}])
def test_a_gamma_is_the_sum_of_the_smaller_probabilities(rule, fields):
    _, request, result, known = told(rule, 0.8, **fields)
    text = [*request.prompt, *result.tokens]
    begin, lanes = len(request.prompt) - 1, drafters()
    target = probabilities(ToyLM(VOCAB), text, request)[begin : begin + len(known)]
    for index, name in enumerate(("bad", "good")):
        draft = probabilities(lanes[name], text, request)[begin : begin + len(known)]
        expected = torch.minimum(target, draft).sum(-1)
        # float32 statistics: relative 2**-22 of probabilities that sum to 1
        assert (known[:, index] - expected).abs().max() < 4 * 2**-22
    lookup = PromptLookupDrafter(VOCAB)
    for place, gamma in enumerate(known[:, 2].tolist()):
        lookup.prefill([text[: begin + 1 + place]])
        first = int(lookup.propose(1))
        assert gamma == pytest.approx(float(target[place, first]) if first >= 0 else 0.0, abs=1e-6)
    assert 0 <= len(result.tokens) - len(known) <= 5, "the last round is not judged"


@pytest.mark.parametrize(("rule", "temperature"), [("greedy", 0.0), ("gumbel", 0.9)])
def test_where_nothing_is_tossed_a_gamma_is_whether_the_first_draft_is_right(rule, temperature):
    _, request, result, known = told(rule, temperature)
    assert set(known.flatten().tolist()) == {0.0, 1.0}
    text, begin = [*request.prompt, *result.tokens], len(request.prompt)
    for index, drafter in enumerate(drafters().values()):
        for place in range(len(known)):
            drafter.prefill([text[: begin + place]])
            if index == 2:
                said = int(drafter.propose(1))
            else:
                logits = drafter.step(torch.tensor(text[begin + place - 1 : begin + place]))
                rng = tk.RngState.of([result.key], [begin + place])
                sampling = tk.SamplingParams.of(1, temperature)
                said = int(tk.sample(logits, sampling, rng, rule=rule))
            assert known[place, index] == (said == text[begin + place])


class Wild(PromptLookupDrafter):
    """Says what is no token every other time, elsewhere nothing or the token 1."""

    def score(self, emitted):
        known = super().score(emitted)
        return torch.tensor([VOCAB, 1, -1, VOCAB + 7, 1])[: known.shape[1]].expand_as(known)


def test_what_is_no_token_has_no_chance_and_hides_none_after_it():
    lanes = {"good": ToyLM(VOCAB), "wild": Wild(VOCAB)}
    controller = Controller(arms(names=lanes, n=4), 4, "hedge")
    decoder, known = SpeculativeDecoder(ToyLM(VOCAB), lanes, controller), []
    controller.observe = lambda gamma, count, live: known.extend(gamma[0, 1, : int(count)].tolist())
    (result,) = decoder.generate([Request([1], 60, 1.0)])
    text = [1, *result.tokens]
    target = probabilities(ToyLM(VOCAB), text, Request([1], 60, 1.0))[: len(known), 1].tolist()
    place = 0
    for emitted in [n + 1 for n in result.accepted][:-1]:
        one = target[place : place + emitted]
        expected = [p * (i in (1, 4)) for i, p in enumerate(one)]
        assert known[place : place + emitted] == pytest.approx(expected, abs=1e-6)
        place += emitted
    assert place == len(known) > 20


def test_every_position_counts_once_and_the_end_of_a_request_is_dropped():
    """K = 4 slots, but drafts of 3: a position needs 3 tokens."""
    decoder, _, _, known = told("greedy", 0.0)
    assert decoder.controller.horizon == 3
    judged = len(known) - 2
    assert decoder.controller.bandit.count.sum() == pytest.approx(judged, abs=1e-9)
    right = known.unfold(0, 3, 1).cumprod(-1).sum(-1)  # [positions, drafters]
    losses = (1 - (1 + right) / 4).sum(0)
    assert decoder.controller.bandit.reward_sq[0].tolist() == pytest.approx(losses.tolist())


def test_rows_of_a_batch_are_judged_each_by_its_own_text():
    """Gumbel: the text depends on no arm, nor do the losses."""
    decoder = decoder_of(rule="gumbel")
    asked = requests(0.8, new=30)
    results = decoder.generate(asked)
    together = decoder.controller.bandit.reward_sq[0].clone()
    alone = decoder_of(rule="gumbel")
    assert tokens_of([alone.generate([one])[0] for one in asked]) == tokens_of(results)
    # A row's last rounds, of up to five tokens each, are not judged: what they are depends on arms.
    apart = (together - alone.controller.bandit.reward_sq[0]).abs()
    assert apart.max() <= len(asked) * 5
    assert together.min() > len(asked) * 5


def test_rules_remember_and_rounds_are_tallied():
    decoder = decoder_of(table=arms("adaedl", initial_threshold=0.9))
    decoder.generate(requests(0.8))
    assert decoder.controller.horizon == 4
    memory = decoder.controller.state.memory[..., 0]
    assert (memory != memory[0, 0]).any()
    assert decoder.controller.bandit.tokens.sum() > 0


def test_it_persists_over_requests_until_it_is_reset():
    decoder = decoder_of()
    decoder.generate(requests())
    before = decoder.controller.bandit.count.sum()
    decoder.generate(requests())
    assert decoder.controller.bandit.count.sum() > before > 0
    decoder.reset()
    assert decoder.controller.bandit.count.sum() == 0
    assert [arm.pulls for arm in decoder.controller.report()] == [0, 0, 0]


def test_a_bandit_that_learns_nothing_finds_nothing(monkeypatch):
    monkeypatch.setattr(Controller, "observe", lambda *_: None)
    results = decoder_of().generate(requests(0.7, new=120))
    late = [arm for result in results for arm in result.arms[-15:]]
    assert late.count(1) < 0.8 * len(late)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "message"), [
    ((*arms(), ("fixed_length", {"n": 2}, ("good",))), "one arm for each, of the same rule"),
    ((*arms(names=("bad",)), ("svip", {}, ("good",))), "one arm for each, of the same rule"),
    ((*arms(names=("bad",)), ("fixed_length", {"n": 3}, ("prompt-lookup", "good"))), "one arm"),
    (arms(n=0), r"must let them draft, got bad/fixed_length\(n=0\)"),
])  # fmt: skip
def test_arms_that_differ_in_more_than_the_drafter_are_refused(table, message):
    for policy in HEDGES:
        with pytest.raises(EngineError, match=f"arms: {policy} over several drafters .*{message}"):
            decoder_of(policy, table=table)


class Mute(ToyLM):
    score = None


class Short(ToyLM):
    max_length = 99


@pytest.mark.parametrize(("drafter", "message"), [
    (Mute(VOCAB), "expected drafters with a method score, got a Mute"),
    (Short(VOCAB), "that read the target's inf tokens, got a Short that reads 99"),
])  # fmt: skip
def test_drafters_that_cannot_be_asked_are_refused(drafter, message):
    controller = Controller(arms(names=("bad", "good")), policy="hedge")
    with pytest.raises(EngineError, match=message):
        SpeculativeDecoder(ToyLM(VOCAB), {"bad": drafter, "good": ToyLM(VOCAB)}, controller)


def test_drafters_that_no_arm_names_follow_all_the_same():
    controller = Controller(arms(names=("bad", "good")), 4, "hedge")
    decoder = SpeculativeDecoder(ToyLM(VOCAB), drafters(), controller)
    decoder.generate(requests())
    decoder.controller.select(torch.ones(4, dtype=torch.bool))
    text = [row.tokens for row in decoder.lanes[2].drafter._rows]
    assert [len(row) >= 60 for row in text] == [True] * 4
