"""``trace record``: from prompts to a file, also in two goes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tapout_engine.cli import main
from tapout_engine.replay.costs import costs_of_file
from tapout_engine.traces import Trace, load_trace
from tapout_engine.traces.recorder import Recorder


@pytest.fixture
def record(capsys, model_dir, tmp_path):
    """``trace record`` on the tiny model: exit code, what it printed, the file."""
    (tmp_path / "prose.txt").write_text("abcabcabc\n\nhello hello")
    line = {"turns": ["def f(x):"]}
    (tmp_path / "code.jsonl").write_text(json.dumps(line) + "\n")
    prompts = [f"prose={tmp_path / 'prose.txt'}", f"code={tmp_path / 'code.jsonl'}"]

    def run(*more: object, out: str = "a.safetensors"):
        path = tmp_path / out
        arguments = [
            "trace", "record", "--out", path, "--target", model_dir, "--draft", "self",
            "prompt-lookup", "--skip-layers", "1", "--max-new-tokens", "12", "--slots", "4",
            "--prompts", *prompts, *more,
        ]  # fmt: skip
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err, path

    return run


def assert_same(one: Trace, other: Trace) -> None:
    for name in ("start", "domain", "key", "prompt_length", "tokens", "budget", "drafts",
                 "offered", "accepted", "stats"):  # fmt: skip
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def test_a_trace_of_files(record):
    code, printed, path = record()
    assert code == 0, printed
    trace = load_trace(path)
    assert trace.requests == 3
    assert [trace.meta.domains[i] for i in trace.domain] == ["prose", "prose", "code"]
    assert trace.meta.drafters == ["self", "prompt-lookup"]
    assert trace.meta.always == [True, False]
    draft, lookup = trace.meta.cost_ratio
    assert 0 < lookup < draft < 1, "a slot of lookup costs its verification, nearly nothing"
    assert f"{trace.positions} positions of 3 requests" in printed
    assert "self: " in printed
    assert [file.name for file in path.parent.iterdir() if "part" in file.name] == []
    assert (trace.offered[:, 0] == 4).all()


def test_a_run_that_was_cut_off_goes_on(record, monkeypatch):
    whole = load_trace(record("--rule", "gumbel", "--temperature", "0.8", out="whole")[2])
    begun, original = [], Recorder.record

    def cut_off(self, requests, ordinals, batch):
        begun.append(list(ordinals))
        for count, entry in enumerate(original(self, requests, ordinals, batch)):
            yield entry
            if count == 1 and len(begun) == 1:
                raise KeyboardInterrupt

    sampled = ("--rule", "gumbel", "--temperature", "0.8")
    monkeypatch.setattr(Recorder, "record", cut_off)
    assert record(*sampled)[0] == 130
    code, printed, _ = record("--rule", "gumbel", "--temperature", "0.7")
    assert code == 2
    assert "was begun with other settings" in printed
    code, _, path = record(*sampled)
    assert code == 0
    assert begun == [[0, 1, 2], [2]]
    assert_same(load_trace(path), whole)


def test_folders_are_called_by_their_name_and_short_texts_are_enough(record, model_dir, tmp_path):
    (tmp_path / "short.txt").write_text("a")
    code, printed, path = record(
        "--draft", model_dir, "--prompts", f"short={tmp_path / 'short.txt'}",
        "--max-new-tokens", "2",
    )  # fmt: skip
    assert code == 0, printed
    trace = load_trace(path)
    assert trace.meta.drafters == [model_dir.name]
    assert trace.positions <= 2
    assert (trace.accepted == 4).all(), "the drafter is the target"


def test_requests_recorded_together_say_the_same(record):
    alone, together = record()[2], record("--batch", "2", out="b")[2]
    one, other = load_trace(alone), load_trace(together)
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.drafts, other.drafts)
    np.testing.assert_allclose(one.stats, other.stats, rtol=1e-3, atol=1e-4)


def test_costs_are_measured_into_a_file_that_replay_reads(record, model_dir, tmp_path, capsys):
    out = tmp_path / "costs.json"
    code = main([
        "trace", "costs", "--out", str(out), "--target", str(model_dir), "--draft", "self",
        "prompt-lookup", "--skip-layers", "1", "--slots", "4", "--batch", "3", "--context", "20",
    ])  # fmt: skip
    assert code == 0, capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["batch"] == [1, 3]
    assert found["context"] == 20
    assert min(found["verify"][0] + found["verify"][1]) > 0
    costs = costs_of_file(out, load_trace(record()[2]).meta, 2)
    assert costs.verify.shape == (2, 5)
    assert costs.catch_up[1] == 0 < costs.draft[0, 0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--prompts", "text"), "trace record: --prompts must be DOMAIN=PATH, got text"),
        (("--prompts", "a=missing.txt"), "trace record: expected a folder or a file"),
        (("--temperature", "0.5"), "expected --rule gumbel for --temperature 0.5"),
        (("--draft", "auto"), "--draft names one drafter each, got auto"),
        (("--draft", "self", "self"), "must name different drafters, got two self"),
        (("--rule", "token"), "invalid choice: 'token'"),
    ],
)
def test_what_cannot_be_recorded_is_refused(record, more, message):
    code, printed, path = record(*more)
    assert code == 2
    assert message in printed
    assert not path.exists()
