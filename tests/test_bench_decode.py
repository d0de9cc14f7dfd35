"""The benchmark of whole decoding: every way on the same prompts, and its table."""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
sys.path.insert(0, str(Path(__file__).parent))

import bench_decode
import harness
import report
from engine.conftest import tiny_llama, tiny_tokenizer

from tapout_engine.session import Session

WAYS = ["plain", "transformers", "head, 2", "head, TapOut", "prompt lookup", "any drafter"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(0).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    session = Session(str(folder))
    arguments = argparse.Namespace(
        tokens=12, temperature=0.0, batch=2, limit=3, spec_bench=None, dtype="float32"
    )
    patch = pytest.MonkeyPatch()
    patch.setattr(bench_decode, "prompts", lambda domain, path: ["ab", "cde", "f", "not asked"])
    decoders = bench_decode.ways(session, WAYS, "self", 4)
    made = list(bench_decode.measure(session, decoders, arguments, "code"))
    patch.undo()
    shared = {**harness.environment(), "dtype": "float32", "batch": 2, "temperature": 0.0}
    return [{**row, **shared} for row in made]


def test_every_way_decodes_the_same_prompts(rows):
    assert [row["way"] for row in rows] == WAYS
    assert {row["prompts"] for row in rows} == {3}
    assert len({row["tokens"] for row in rows}) == 1
    assert all(row["differ"] == row["unexplained"] == 0 for row in rows)
    assert rows[0]["speedup"] == 1.0
    assert all(row["tokens_per_second"] > 0 for row in rows)


def test_the_table_has_a_line_for_each_and_the_command(rows):
    table = report.table(rows)
    assert rows[0]["command"] in table
    assert "float32, batch 2, greedy; prompts: 3 code." in table
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0][2:] for line in lines[1:]] == WAYS
    assert lines[1].endswith("| 0 (0 beyond rounding) |")


def test_humaneval_comes_from_its_package():
    found = bench_decode.prompts("code", None)
    assert len(found) == 164
    assert all("def " in prompt for prompt in found)
