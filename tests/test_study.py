"""The study: from traces to rows, from rows to a page whose verdicts are what the rows say."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
sys.path.insert(0, str(Path(__file__).parent))

import study
import study_plots
import study_runs
import study_short
import study_tables
from engine.recording import record
from study_report import report

from tapout_engine import Request
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.traces import save_trace
from tapout_engine.traces.recorder import Recorder

VOCAB, SLOTS = 6, 4
NAMES = ("ucb1, blend", "ucb1, throughput", "ucb1, simple", "ucb1, decision",
         "thompson_gaussian, throughput", "ucbspec, simple", "exp3spec, simple", "hedge, blend",
         "hedge", "ucb1, throughput, discounted")  # fmt: skip


def save(folder: Path, name: str, domain: str, more: tuple[str, ...] = ()) -> None:
    drafters = {"head": ToyLM(VOCAB, noise=0.5), "prompt-lookup": PromptLookupDrafter(VOCAB)}
    drafters |= {name: ToyLM(VOCAB, noise=0.3) for name in more}
    asked = [Request([1 + i, 2, 1 + i, 2], 40 + 5 * i) for i in range(3)]
    recorder = Recorder(ToyLM(VOCAB), drafters, SLOTS)
    trace = record(recorder, asked, [domain] * 3, batch=3)
    about = {"machine": "a machine", "threads": 1, "torch": "2"}
    trace = replace(trace, meta=replace(trace.meta, made_with=about))
    save_trace(trace, folder / f"{name}.safetensors")


pytestmark = pytest.mark.xdist_group("study")  # replayed once


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of three small traces: its folder, its rows."""
    folder = tmp_path_factory.mktemp("study")
    for domain in ("code", "prose"):
        save(folder, f"{domain}-greedy", domain)
    save(folder, "all-code-greedy", "code", ("self",))
    save(folder, "all-prose-greedy", "prose", ("self",))
    patch = pytest.MonkeyPatch()
    few = tuple(
        replace(part, names=NAMES, ratios=part.ratios[::5], batches=part.batches[:2])
        for part in study_runs.SECTIONS
    )
    patch.setattr(study, "SECTIONS", few)
    for name, file in (("ROWS", "rows.jsonl"), ("PAGE", "study.md"), ("FIGURES", "figures")):
        patch.setattr(study, name, folder / file)
    study.replay(argparse.Namespace(folder=folder, orders=2, jobs=1))
    rows = study.read()
    patch.undo()
    return folder, rows


def test_a_study_answers_every_question_with_plots(made):
    folder, rows = made
    page = (folder / "study.md").read_text()
    for words in ("Untuned TapOut among the top two", "Within 2%", "Which reward works",
                  "token level", "When not to draft", "- Load, ", "every drafter: ", "## Regret",
                  "| code, every drafter | 3 | 3 | 135 |", "hedge, blend",
                  "50,000 positions of each domain: missed on code, prose."):  # fmt: skip
        assert words in page, words
    for name in study_plots.files():
        assert f"study/{name}" in page
        assert (folder / "figures" / name).read_bytes().startswith(b"\x89PNG"), name
    assert {row["section"] for row in rows} == {
        "traces", "costs", *(part.name for part in study_runs.SECTIONS)
    }  # fmt: skip
    assert study_tables.streams(rows) == ["code", "prose", "mixed", "drifting"]


def test_the_best_arm_and_its_share_are_those_of_the_rows(made):
    _, rows = made
    arms = study_tables.of(rows, study_short.OWN, stream="mixed", way="arm")
    assert len(arms) == 6
    label, speed = study_tables.best_fixed(rows, study_short.OWN, "mixed")
    assert speed == max(row["speed"] for row in arms)
    own = study_tables.of(rows, study_short.OWN, stream="mixed", way="policy", label="ucb1, blend")
    share = study_tables.of_best(rows, study_short.OWN, "ucb1, blend", "mixed")
    assert share == own[0]["speed"] / speed
    place, *found = study_tables.ranks(rows, study_short.OWN, "ucb1, blend")["mixed"]
    assert place == 1 + sum(row["speed"] > own[0]["speed"] for row in arms)
    assert found == [own[0]["speed"], label, speed]
    for section in study_tables.sections(rows):
        assert study_tables.middle(rows, section) > 0.999, "one arm for all cannot do better"


def test_costs_measured_apart_are_those_charged(made, tmp_path):
    folder, _ = made
    found = {"batch": [1, 2], "verify": [[2, 2, 3, 3, 4], [4, 4, 5, 5, 8]], "catch_up": [0.5, 0],
             "draft": [[1, 0], [3, 0]], "drafters": ["head", "prompt-lookup"],
             "made_with": {"threads": 2}}  # fmt: skip
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(found))
    meta = study.load_trace(folder / "code-greedy.safetensors").meta
    row = study_runs.costs_row(meta, False, path)
    assert row["verify"] == [1, 1, 1.5, 1.5, 2]
    assert row["draft"] == {"head": 0.5, "prompt-lookup": 0}
    assert row["by_batch"] == [[1, 2], [2, 4]]
    assert row["forward_ms"] == 2000
    assert row["apart"] is True
    assert study_runs.costs_row(meta, False, None)["forward_ms"] == 10


VERDICTS = [
    ({"label": "ucb1, blend", "way": "policy"}, 0.1, "top two everywhere: **Missed** on code"),
    ({"label": "ucb1, blend", "way": "policy"}, 9.0, "top two everywhere: **Met**"),
    ({"label": "ucb1, throughput", "way": "policy"}, 0.1, "head, ucb1, throughput: **missed** on"),
    ({"label": "ucb1, throughput", "way": "policy"}, 9.0, "head, ucb1, throughput: **met**"),
    ({"label": "ucb1, throughput", "way": "policy"}, 9.0, "drifting stream: **Met**"),
    ({"way": "policy"}, 0.5, "drifting stream: **Missed**"),
]


@pytest.mark.parametrize(("where", "speed", "verdict"), VERDICTS)
def test_verdicts_follow_the_rows(made, where, speed, verdict):
    rows = [
        {**row, "speed": speed} if all(row.get(k) == v for k, v in where.items()) else row
        for row in made[1]
    ]
    assert verdict in "\n".join(study_short.short(rows))


@pytest.mark.parametrize(("half", "verdict"), [(0.97, "**missed**, 0.970"), (0.99, "**met**, 0.9")])
def test_the_load_goal_is_for_the_worst_order(made, half, verdict):
    rows = [{**row, "worst_half": half} if "worst_half" in row else row for row in made[1]]
    assert f"in the second half: {verdict}" in "\n".join(study_short.short(rows))


def test_traces_are_read_in_their_order(made):
    found = [path.stem for path in study.traces(made[0], False)]
    assert found == ["code-greedy", "prose-greedy"]
    assert [path.stem for path in study.traces(made[0], True)] == [
        "all-code-greedy", "all-prose-greedy"
    ]  # fmt: skip
    assert list(study.wanted(["a", "b"], 1)) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_the_committed_page_is_that_of_its_rows():
    rows = study.read()
    assert study.PAGE.read_text() == report(rows), "run `python bench/study.py report`"
    files = sorted(study.FIGURES.iterdir())
    assert [file.name for file in files] == sorted(study_plots.files())
    assert max(file.stat().st_size for file in files) <= 100_000
