"""The benchmark refuses wrong results, and its rows make the documented table."""

import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import bandit_native
import baselines
import bench_ops
import checks
import harness
import report


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Few samples, and nothing compiled by torch: here it is the checks that are tested."""

    def brief(function, before=None, **_):
        return harness.times_us(function, before, budget_s=0.01, most=5)

    monkeypatch.setattr(bench_ops, "times_us", brief)
    monkeypatch.setattr(baselines, "compiled", lambda function: function)
    monkeypatch.setattr(bandit_native, "ROUNDS", 5)


def test_rows_make_a_table_with_the_command_that_reproduces_it():
    shared = {**harness.environment(), "read_gb_s": 10.0}
    filters = {"top_k": 50, "top_p": 0.9}
    rows = [
        {**bench_ops.bench_verify(256, torch.bfloat16, 0.5, {}), **shared},
        {**bench_ops.bench_draft_step(2, 256, torch.float32), **shared},
        {**bench_ops.bench_draft_step(2, 256, torch.float32, **filters), **shared},
        {**bench_ops.bench_row_stats(2, 256, torch.float16), **shared},
        {**bench_ops.bench_bandit(4, 3), **shared},
        {**bench_ops.bench_bandit_native(4, 3), **shared},
    ]
    assert all(row["median_us"] > 0 for row in rows)
    assert [row["op"] for row in rows[:2]] == ["verify", "draft_step"]
    assert all(row[f"times_{name}"] > 0 for row in rows[:4] for name in ("eager", "compile"))
    assert rows[3]["bytes"] == 2 * 256 * 2
    table = report.table(rows)
    assert table.count("\n") == len(rows) + 3
    assert rows[0]["command"] in table
    assert "top_k=50, top_p=0.9" in table


def test_bytes_are_those_of_the_acceptance():
    case = bench_ops.Round(8, 5, 64, torch.float32, 1.0)
    assert case.work() == (8 * 6 * 64 * 4, 1.0), "every target row, no draft row"
    case = bench_ops.Round(8, 5, 4096, torch.bfloat16, 0.0)
    assert case.work() == (8 * 2 * 4096 * 2, 0.0), "a target and a draft row"


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    correct = bench_ops.tk.verify

    def wrong(*args, backend=None, **kwargs):
        verdict = correct(*args, backend=backend, **kwargs)
        if backend is None:
            verdict.tokens[0, 0] += 1
        return verdict

    monkeypatch.setattr(bench_ops.tk, "verify", wrong)
    with pytest.raises(SystemExit, match="wrong result"):
        bench_ops.bench_verify(256, torch.float32, 0.5, {})


def samples_the_target(target_logits, draft_logits, draft_tokens):
    """Accepts as it should, then draws from p_target where it should draw from the residual."""
    accepted, following = baselines.verify(target_logits, draft_logits, draft_tokens)
    last = target_logits[torch.arange(len(accepted)), accepted]
    drawn = torch.multinomial(torch.softmax(last.float(), -1), 1)[:, 0]
    return accepted, torch.where(accepted < draft_tokens.shape[1], drawn, following)


def forgets_the_draft_temperature(target_logits, draft_logits, draft_tokens):
    return baselines.verify(target_logits, draft_logits / 2, draft_tokens)


@pytest.mark.parametrize("wrong", [samples_the_target, forgets_the_draft_temperature])
def test_a_baseline_of_another_law_is_not_timed(wrong):
    checks.verify_law("eager", baselines.verify)
    with pytest.raises(SystemExit, match="peer: wrong law, not timed"):
        bench_ops.bench_verify(256, torch.float32, 0.5, {"peer": wrong})


@pytest.mark.parametrize("filters", [{}, {"top_k": 3, "top_p": 0.8}])
def test_a_draft_of_another_law_is_not_timed(filters):
    right = baselines.draft_step_sorted if filters else baselines.draft_step
    checks.draft_step_law("eager", right, **filters)

    def uniform(logits, **_):
        token, numbers = right(logits, **filters)
        kept = right(logits[:1].expand(64, -1), **filters)[0].unique()
        token = kept[torch.randint(len(kept), token.shape)]
        stats = bench_ops.tk.row_stats(
            logits, bench_ops.tk.SamplingParams.of(len(token), **filters)
        )
        numbers[:, 3] = logits.gather(-1, token[:, None])[:, 0] - stats[:, 0]
        return token, numbers

    with pytest.raises(SystemExit, match="wrong law"):
        checks.draft_step_law("eager", uniform, **filters)

    def wrong_entropy(logits, **_):
        token, numbers = right(logits, **filters)
        return token, numbers * torch.tensor([1.01, 1, 1, 1])

    with pytest.raises(SystemExit, match="wrong result"):
        checks.draft_step_law("eager", wrong_entropy, **filters)


def test_a_baseline_slower_than_the_reference_is_no_baseline(monkeypatch):
    def slow(logits):
        time.sleep(0.2)
        return right(logits)

    right = baselines.row_stats
    monkeypatch.setattr(baselines, "row_stats", slow)
    with pytest.raises(SystemExit, match="slower than the reference"):
        bench_ops.bench_row_stats(2, 4096, torch.float32)


def test_documented_tables_are_the_committed_results():
    for document in (report.ROOT / "docs").glob("*.md"):
        text = document.read_text()
        assert report.with_tables(text, report.ROOT) == text, f"run `make bench`: {document.name}"
