"""Lossy rules in the engine: asked for by name and flag, said in every table, refused elsewhere."""

from __future__ import annotations

import json

import pytest

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.cli import main
from tapout_engine.graph_loop import GraphDecoder
from tapout_engine.rules import LOSSLESS, LOSSY, plain_rule
from tapout_engine.tree_decode import TreeDecoder
from tapout_kernels.reference.accept import LOSSY_RULES, RULES

each_rule = pytest.mark.parametrize("rule", LOSSY)
PROMPTS = ([1], [2, 3], [4, 5, 6, 7])


def requests(temperature: float) -> list[Request]:
    return [Request(prompt, 40, temperature, seed=i) for i, prompt in enumerate(PROMPTS)]


def decoder(rule: str, drafter=None, **options: object) -> SpeculativeDecoder:
    drafter = ToyLM(noise=0.9) if drafter is None else drafter
    controller = Controller((("fixed_length", {"n": 8}),), slots=8, policy="fixed")
    return SpeculativeDecoder(ToyLM(), drafter, controller, rule=rule, **options)


def test_the_names_are_the_kernels():
    assert tuple(LOSSY_RULES) == LOSSY
    assert tuple(RULES) == LOSSLESS


@each_rule
def test_a_rule_must_be_allowed(rule):
    for options in ({}, {"allow_lossy": False}, {"allow_lossy": 1}):
        with pytest.raises(EngineError, match=f"allow_lossy must be True for rule '{rule}', got"):
            decoder(rule, **options)


@each_rule
def test_decoders_without_them_say_so(rule):
    for name, build in (
        ("PlainDecoder", lambda: PlainDecoder(ToyLM(), rule=rule)),
        ("GraphDecoder", lambda: GraphDecoder(ToyLM(), ToyLM(), Controller(), rule=rule)),
        ("TreeDecoder", lambda: TreeDecoder(ToyLM(), ToyLM(), None, rule=rule)),
    ):
        with pytest.raises(EngineError, match=f"{name}: rule must be one of token, .*got '{rule}'"):
            build()


@each_rule
def test_at_temperature_0_they_emit_what_greedy_decoding_does(rule):
    plain = PlainDecoder(ToyLM()).generate(requests(0.0))
    found = decoder(rule, allow_lossy=True).generate(requests(0.0))
    assert [x.tokens for x in found] == [x.tokens for x in plain]


@pytest.mark.parametrize("rule", ["lossy_ears", "lossy_adasd"])
def test_they_accept_more_than_the_rule_they_relax(rule):
    found, plain = (
        decoder(name, allow_lossy=True).generate(requests(0.7)) for name in (rule, plain_rule(rule))
    )
    assert [x.error for x in found] == [None] * len(PROMPTS)
    lossy, lossless = (
        sum(map(sum, (x.accepted for x in results))) / sum(x.rounds for x in results)
        for results in (found, plain)
    )
    assert lossy > lossless


def test_what_adasd_remembers_is_of_the_request():
    """A batch, a request alone, and a second call: nothing is carried over."""
    both = decoder("lossy_adasd", allow_lossy=True)
    first = both.generate(requests(0.7))
    memory = both.lanes[0].memory
    assert memory.shape == (3, 4)
    assert (memory[:, 1::2] > 0).all()
    drafted = sum(map(sum, (x.drafted for x in first)))
    assert 0 < memory[:, 1::2].sum() <= drafted
    again = decoder("lossy_adasd", allow_lossy=True).generate(requests(0.7)[:1])[0]
    assert again.tokens == first[0].tokens
    both.controller.reset()
    assert both.generate(requests(0.7)[:1])[0].error is None
    assert both.lanes[0].memory.shape == (1, 4)


@each_rule
def test_drafts_without_a_distribution(rule):
    target, drafter = ToyLM(vocab_size=6), PromptLookupDrafter(6)
    controller = Controller((("fixed_length", {"n": 3}),), slots=3, policy="fixed")
    decoder = SpeculativeDecoder(target, drafter, controller, rule=rule, allow_lossy=True)
    results = decoder.generate([Request([1, 2, 1, 2, 1], 30, 0.8)])
    assert results[0].error is None
    assert len(results[0].tokens) == 30


# ---- the command line ----------------------------------------------------------------------------


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(x) for x in arguments])
    return code, *capsys.readouterr()


def test_generate_says_that_a_line_is_lossy(model_dir, capsys):
    common = ("generate", "--prompt", "abcabc", "--target", model_dir, "--draft", "self",
              "--max-new-tokens", 8, "--slots", 3, "--temperature", 0.8)  # fmt: skip
    lossy = ("--rule", "lossy_typical", "--allow-lossy")
    code, text, _ = run(capsys, *common, *lossy, "--compare")
    assert code == 0
    assert "rule lossy_typical (lossy);" in text
    assert "\nspeculative (lossy) " in text
    assert "\nplain " in text
    assert json.loads(run(capsys, *common, *lossy, "--json")[1])["lossy"] is True
    code, text, _ = run(capsys, *common)
    assert "lossy" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "generate: allow_lossy must be True for rule 'lossy_ears', got False"),
        (["bench"], "bench: allow_lossy must be True for rule 'lossy_ears', got False"),
        (["generate", "--allow-lossy", "--loop", "eager"], "generate --loop: rule must be one of"),
        (["generate", "--allow-lossy", "--tree", "eagle2"], "generate --tree: rule must be one of"),
        (["bench", "--allow-lossy", "--loops", "eager"], "bench --loops eager: rule must be one"),
    ],
)  # fmt: skip
def test_commands_refuse_before_a_model_is_loaded(capsys, arguments, message):
    more = ["--prompt", "x"] if arguments[0] == "generate" else []
    code, _, error = run(capsys, *arguments, *more, "--rule", "lossy_ears", "--target", "nowhere")
    assert code == 2
    assert message in error


def test_bench_says_that_a_row_is_lossy(model_dir, capsys):
    code, text, _ = run(
        capsys, "bench", "--target", model_dir, "--batch", 2, "--slots", 3, "--max-new-tokens", 8,
        "--rule", "lossy_adasd", "--allow-lossy",
    )  # fmt: skip
    assert code == 0
    assert "rule lossy_adasd (lossy)" in text
    assert "\nordinary (lossy) " in text
    assert "eager" not in text


def test_the_bandit_learns_from_lossy_verdicts():
    controller = Controller(slots=8)
    decoder = SpeculativeDecoder(
        ToyLM(), ToyLM(noise=0.9), controller, rule="lossy_ears", allow_lossy=True
    )
    results = decoder.generate(requests(0.7))
    assert sum(arm.pulls for arm in controller.report()) == sum(x.rounds for x in results)


@each_rule
def test_drafters_are_judged_beside_lossy_rules(rule):
    """A hedge over drafters scores them by what ``token`` would accept of theirs."""
    arms = (("fixed_length", {"n": 2}, ("a",)), ("fixed_length", {"n": 2}, ("b",)))
    controller = Controller(arms, slots=2, policy="hedge")
    drafters = {"a": ToyLM(noise=0.5), "b": ToyLM(noise=5.0)}
    decoder = SpeculativeDecoder(ToyLM(), drafters, controller, rule=rule, allow_lossy=True)
    assert [x.error for x in decoder.generate(requests(0.7))] == [None] * len(PROMPTS)
