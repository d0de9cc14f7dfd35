"""The benchmark refuses wrong results, and its rows make the documented table."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import bench_ops
import harness
import report


@pytest.fixture(autouse=True)
def brief_timing(monkeypatch):
    def brief(function):
        return harness.times_us(function, budget_s=0.01, most=5)

    monkeypatch.setattr(bench_ops, "times_us", brief)


def test_rows_make_a_table_with_the_command_that_reproduces_it():
    shared = {**harness.environment(), "read_gb_s": 10.0}
    rows = [
        {**bench_ops.bench_verify(256, torch.bfloat16, 0.5), **shared},
        {**bench_ops.bench_draft_step(2, 256, torch.float32), **shared},
        {**bench_ops.bench_row_stats(2, 256, torch.float16), **shared},
        {**bench_ops.bench_bandit(4, 3), **shared},
    ]
    assert all(row["median_us"] > 0 for row in rows)
    assert [row["op"] for row in rows[:3]] == ["verify", "draft_step", "row_stats"]
    assert rows[2]["bytes"] == 2 * 256 * 2
    table = report.table(rows)
    assert table.count("\n") == len(rows) + 3
    assert rows[0]["command"] in table


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    correct = bench_ops.tk.verify

    def wrong(*args, backend=None, **kwargs):
        verdict = correct(*args, backend=backend, **kwargs)
        if backend is None:
            verdict.tokens[0, 0] += 1
        return verdict

    monkeypatch.setattr(bench_ops.tk, "verify", wrong)
    with pytest.raises(SystemExit, match="wrong result"):
        bench_ops.bench_verify(256, torch.float32, 0.5)


def test_documented_tables_are_the_committed_results():
    for document in (report.ROOT / "docs").glob("*.md"):
        text = document.read_text()
        assert report.with_tables(text, report.ROOT) == text, f"run `make bench`: {document.name}"
