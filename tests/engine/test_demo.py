"""The demo on the tiny model: what it prints, and when it fails."""

from __future__ import annotations

import functools

import pytest

from tapout_engine import demo
from tapout_engine.divergence import Divergence
from tapout_engine.session import Session


@pytest.fixture
def lines(model_dir, monkeypatch):
    monkeypatch.setattr(demo, "Session", functools.partial(Session, str(model_dir)))
    monkeypatch.setattr(demo, "NEW_TOKENS", 12)
    said: list[str] = []

    def say(text: str, **settings) -> None:
        said.append(text)

    return said, say


def test_one_table_of_every_way_to_decode(lines, model_dir):
    said, say = lines
    assert demo.run(say=say) == 0
    text = "\n".join(said)
    for mode in ("greedy", "T=0.8"):
        for way in ("plain", "lookup, bandit", "draft, fixed", "draft, TapOut", "draft or lookup"):
            assert f"{mode}: {way}" in text
    rows = [line for line in text.splitlines() if line.startswith("greedy: ")]
    assert [row.split()[-2] for row in rows] == ["-", "3/3", "3/3", "3/3", "3/3"]
    pulls = [row.split()[-1].split("/") for row in rows]
    assert pulls[0] == ["-"]
    assert [len(each) for each in pulls[1:]] == [4, 1, 5, 5]
    assert all(sum(map(int, each)) >= 3 for each in pulls[1:])
    assert text.count("draft/survival(threshold=0.6)") == 1, "arms are named once"
    assert text.count(f"{model_dir.name}, float32") == 1
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(("margin", "code"), [(0.1, 0), (0.3, 1)])
def test_it_fails_on_a_divergence_that_rounding_cannot_explain(margin, code, lines, monkeypatch):
    said, say = lines
    found = Divergence(position=3, expected=4, got=5, margin=margin, rounding=0.25)
    monkeypatch.setattr(demo, "first_divergence", lambda *arguments: found)
    assert demo.run(say=say) == code
    text = "\n".join(said)
    assert "prose: differs from plain at token 3: top-2 margin" in text
    assert ("EXCEEDS" in text) == bool(code)
    assert "0/3" in text
