"""Every example runs, and says what it promises."""

from __future__ import annotations

import re

import pytest

from .conftest import ROOT, run_python

EXAMPLES = ROOT / "python" / "examples"


def output(name: str, *arguments) -> str:
    result = run_python(EXAMPLES / name, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_own_engine():
    lines = output("own_engine.py").splitlines()
    counts = [int(re.search(r": (\d+) tokens in 4 rounds", line)[1]) for line in lines]
    assert len(counts) == 3
    assert all(4 <= count <= 24 for count in counts)
    assert sum(counts) > 12, "some draft must be accepted"


def test_bandit_loop():
    pulls = [int(n) for n in re.findall(r"pulled +(\d+) times", output("bandit_loop.py"))]
    assert sum(pulls) == 8 * 300
    assert max(pulls) == pulls[-1], "under the simple reward the longest draft is the best arm"


def test_batch_toy():
    text = output("batch_toy.py")
    assert "equal plain greedy decoding: True" in text
    accepted = re.findall(r"accepted of drafted: (.*)", text)
    assert len(set(accepted)) == 4


def test_hf_generate(model_dir):
    text = output("hf_generate.py", model_dir)
    assert "drafting without layers (1,)" in text
    assert re.search(r"\d+ tokens in \d+ rounds", text)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_has_a_test(path):
    assert f"def test_{path.stem}(" in (ROOT / "tests/engine/test_examples.py").read_text()
