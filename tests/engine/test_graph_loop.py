"""Rounds that ask no host: in every mode what the ordinary decoder emits, row by row."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from tapout_engine import Controller, PlainDecoder, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.graph_loop import GraphDecoder, runners
from tapout_engine.models import decoder as decoder_module
from tapout_engine.models.weights import decoder_of

from .conftest import tiny_llama
from .graph_loops import ARMS, draft_model, facts, learnt, record, requests, target_model
from .heads import guessable_llama, guessing

WAYS = [
    ("token", 0.0, "ucb1", ("eager", "checked", "replay")),
    ("token", 0.9, "thompson_beta", ("eager", "checked", "graph")),
    ("block", 0.9, "exp3", ("eager", "checked")),
    ("gumbel", 0.9, "ucb1", ("eager", "checked", "graph")),
    ("greedy", 0.5, "metasd", ("eager", "checked")),
]


@pytest.fixture(scope="module")
def target():
    return target_model()


@pytest.fixture(scope="module")
def draft():
    return draft_model()


@pytest.fixture
def recorded(monkeypatch):
    """Graphs that need no GPU, and a loop and branches over them that the host decides."""
    monkeypatch.setattr(runners, "captured", record)
    monkeypatch.setattr(
        runners, "one_graph", lambda graphs: runners.Checked(runners.Replayed(graphs).pieces)
    )
    monkeypatch.setattr("tapout_engine.graph_loop.decoder.chosen_mode", lambda mode, device: mode)


@pytest.mark.parametrize(("rule", "temperature", "policy", "modes"), WAYS)
def test_every_mode_does_what_the_ordinary_decoder_does(
    target, draft, recorded, rule, temperature, policy, modes
):
    """Two calls of one bandit, rows that end by length and by EOS: tokens, drafts, arms, tables."""
    expected = Controller(ARMS, slots=4, policy=policy)
    ordinary = SpeculativeDecoder(target, draft, expected, rule=rule)
    batches = [
        requests(temperature, seed=5, eos=(3, 8, 15, 33, 41, 60, 72, 200)),
        requests(temperature, seed=6),
    ]
    wanted = [facts(ordinary.generate(batch)) for batch in batches]
    assert {"eos", "length"} == {result["finish_reason"] for batch in wanted for result in batch}
    for mode in modes:
        controller = Controller(ARMS, slots=4, policy=policy)
        decoder = GraphDecoder(
            target, draft, controller, rule=rule, rows=4, capacity=80, mode=mode
        )  # fmt: skip
        for batch, facts_wanted in zip(batches, wanted, strict=True):
            assert facts(decoder.generate(batch)) == facts_wanted, mode
        for found, table in zip(learnt(controller), learnt(expected), strict=True):
            assert torch.equal(found, table), mode


@pytest.mark.parametrize("mode", ["eager", "checked"])
def test_a_row_alone_is_followed_through_rounds_without_a_draft(target, draft, mode):
    """The drafter is fed in those rounds too; there is nobody else who would have it run."""
    arms = (*[("fixed_length", {"n": 0})] * 3, ("fixed_length", {"n": 3}))
    for lengths in ((1,), (2,), (9,)):
        batch = requests(0.7, lengths, 40)
        wanted = SpeculativeDecoder(target, draft, Controller(arms, slots=3)).generate(batch)
        decoder = GraphDecoder(target, draft, Controller(arms, slots=3), mode=mode)
        assert facts(decoder.generate(batch)) == facts(wanted)
        drafted = wanted[0].drafted
        assert [0, 0] in [drafted[i : i + 2] for i in range(len(drafted))]
        assert max(drafted) > 1


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_admitted_in_the_middle_a_request_is_what_it_is_alone(target, draft, recorded, mode):
    batch = requests(0.8, (5, 1, 30, 2, 12, 1), 7, seed=9, eos=(3,))
    batch[2] = replace(batch[2], top_k=5)
    arms = (("gammatune", {"initial_length": 2}),)  # it remembers how long drafts may be
    decoder = GraphDecoder(
        target, draft, Controller(arms, slots=4), rows=2, capacity=80, mode=mode
    )  # fmt: skip
    streamed = [[] for _ in batch]
    results = decoder.generate(batch, lambda row, tokens, text: streamed[row].extend(tokens))
    for ordinal, (request, result) in enumerate(zip(batch, results, strict=True)):
        controller = Controller(arms, slots=4)
        controller.requests = ordinal
        alone = SpeculativeDecoder(target, draft, controller).generate([request])
        assert facts([result]) == facts(alone)
        assert streamed[ordinal] == result.tokens


def test_greedy_tokens_are_those_of_plain_decoding(target, draft):
    batch = requests(lengths=(3, 1, 20, 64, 2), new=25)
    decoder = GraphDecoder(target, draft, Controller(slots=5), rows=3, rule="greedy")
    plain = PlainDecoder(target, rule="greedy").generate(batch)
    assert [r.tokens for r in decoder.generate(batch)] == [r.tokens for r in plain]


@pytest.mark.parametrize(("ids", "layers"), [(range(96), 1), (range(20, 70), 2)])
def test_a_head_drafts_what_it_does_in_the_ordinary_decoder(recorded, ids, layers):
    """Beside states that come and go with the rows; the second one speaks of fewer words."""
    target = StaticModel(decoder_of(guessable_llama()).pack())
    head = guessing(target.decoder, torch.tensor(ids), layers).pack()
    arms = (ARMS[0], ARMS[0], ARMS[1], ("svip", {"threshold": 1.3}))
    accepted = 0
    for modes, fields in (("eager", {"lengths": (1, 40, 2)}), ("checked", {"lengths": (9,)})):
        batch = requests(0.2, new=32, seed=4, **fields)
        ordinary = SpeculativeDecoder(target, HeadDrafter(head, target), Controller(arms, slots=4))
        wanted = ordinary.generate(batch)
        accepted += sum(sum(result.accepted) for result in wanted)
        for mode in (modes, "graph") if layers == 2 else (modes,):
            decoder = GraphDecoder(
                target, HeadDrafter(head, target), Controller(arms, slots=4), rows=len(batch),
                capacity=80, mode=mode,
            )  # fmt: skip
            assert facts(decoder.generate(batch)) == facts(wanted), mode
            assert facts(decoder.generate(batch)) != facts(wanted)  # the keys are others
    assert accepted > 8


class Letters:
    def decode(self, tokens) -> str:
        return "".join(chr(32 + token) for token in tokens)


def test_stop_strings_end_a_row_where_they_do_in_the_ordinary_decoder(target, draft):
    plain = PlainDecoder(target, Letters()).generate(requests())
    stop = plain[2].text[6:8]
    batch = requests(stop=(stop,))
    expected, controller = Controller(ARMS, slots=4), Controller(ARMS, slots=4)
    wanted = SpeculativeDecoder(target, draft, expected, Letters()).generate(batch)
    assert "stop" in {result.finish_reason for result in wanted}
    found = GraphDecoder(target, draft, controller, Letters(), rows=4).generate(batch)
    assert facts(found) == facts(wanted)
    assert torch.equal(controller.bandit.count, expected.bandit.count)


def test_capacity_and_a_drafter_that_reads_less_end_drafts_and_rows(target):
    short = StaticModel(decoder_of(tiny_llama(seed=1, layers=2), max_length=24))
    batch = requests(lengths=(20, 1), new=30)
    wanted = SpeculativeDecoder(target, short, Controller(slots=6)).generate(batch)
    decoder = GraphDecoder(target, short, Controller(slots=6), rows=2, capacity=128)
    assert facts(decoder.generate(batch)) == facts(wanted)
    small = GraphDecoder(target, target, Controller(slots=6), rows=2, capacity=33)
    found = small.generate(batch)
    assert [len(result.tokens) for result in found] == [13, 32]
    assert found[0].finish_reason == "length"
    assert [r.tokens for r in found] == [
        r.tokens[:n] for r, n in zip(wanted, (13, 32), strict=True)
    ]


@pytest.mark.parametrize("kind", ["model", "head"])
def test_an_error_ends_a_row_and_leaves_the_others(target, draft, kind, monkeypatch):
    """A row whose logits are NaN, as a broken model may give them; whoever comes next is whole,
    also where hidden entries of the cache are multiplied by 0."""
    monkeypatch.setattr(decoder_module, "FUSED", ())
    if kind == "head":
        draft = HeadDrafter(guessing(target.decoder).pack(), target)
    batch = requests(lengths=(4, 9, 3))
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=2)
    wanted = decoder.generate(batch)

    def spoil() -> None:
        launch()
        if len(rounds) == 2:
            decoder.round.target.cache.entries[:, :, 0, :, :4] = float("nan")
        rounds.append(0)

    rounds: list[int] = []
    decoder.controller.reset()
    decoder._prepare(batch)
    launch, decoder.runner.launch = decoder.runner.launch, spoil
    found = decoder.generate(batch)
    assert found[0].finish_reason == "error"
    assert found[0].tokens == wanted[0].tokens[: len(found[0].tokens)]
    assert [result.tokens for result in found[1:]] == [result.tokens for result in wanted[1:]]
    assert not decoder.state.live.any()


ALL_ARMS = (
    *ARMS, ("survival", {"threshold": 0.2}), ("gammatune", {}), ("hysteresis", {"high": 1.0}),
    ("heuristic", {}), ("logit_margin", {}), ("adasd_entropy", {}), ("adl", {}),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_any_batch_of_any_arms(target, draft, seed):
    """Rules, policies, filters, widths and sizes at random; a head in every third."""
    chance = random.Random(seed)
    arms = tuple(chance.sample(ALL_ARMS, chance.randint(1, 5)))
    slots, rule = chance.randint(1, 7), chance.choice(("token", "block", "gumbel", "greedy"))
    policy = chance.choice(("ucb1", "exp3", "hedge", "thompson_beta", "ucb_tuned", "metasd"))
    drafter = HeadDrafter(guessing(target.decoder).pack(), target) if seed % 3 == 0 else draft
    batch = [
        replace(request, temperature=chance.choice((0.0, 0.5, 1.0)), top_k=chance.choice((0, 9)),
                min_p=chance.choice((0.0, 0.1)), max_new_tokens=chance.randint(1, 40),
                eos=tuple(range(5 * chance.randint(0, 1))), seed=chance.randint(0, 9))
        for request in requests(lengths=chance.choices(range(1, 67), k=chance.randint(1, 6)))
    ]  # fmt: skip

    def controller() -> Controller:
        return Controller(arms, slots, policy=policy)

    wanted = SpeculativeDecoder(target, drafter, controller(), rule=rule).generate(batch)
    for mode in ("eager", "checked"):
        widths = [chance.randint(0, slots) for _ in range(3)]
        decoder = GraphDecoder(
            target, drafter, controller(), rule=rule, rows=len(batch), capacity=128, mode=mode,
            widths=widths,
        )  # fmt: skip
        assert facts(decoder.generate(batch)) == facts(wanted), mode
    rule = "greedy" if len(arms) > 1 else rule
    few = GraphDecoder(target, drafter, controller(), rule=rule, rows=2, capacity=128)
    ordinary = SpeculativeDecoder(target, drafter, controller(), rule=rule)
    alone = [ordinary.generate([request])[0] for request in batch]
    assert [r.tokens for r in few.generate(batch)] == [r.tokens for r in alone]
