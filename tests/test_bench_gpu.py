"""The GPU benchmark where there is no GPU: what it measures, checks and writes, not how fast."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import baselines
import bench_gpu
import gpu_bench
import gpu_peers
import report
from gpu_cases import FILTERS, Case
from rounds import Required, Round, required_rows

ROOT = Path(__file__).parents[1]


class HostBench(gpu_bench.Bench):
    """The same rows from the CPU's kernels: every call of a replay runs once, on a host clock."""

    device = "cpu"

    def sets_for(self, touched: int, least: int = 2) -> int:
        return least

    def times_us(self, function, calls, before=None):
        samples = []
        for _ in range(2):
            if before is not None:
                before()
            start = time.perf_counter()
            for i in range(calls):
                function(i)
            samples.append((time.perf_counter() - start) * 1e6 / calls)
        return sorted(samples)

    def alive(self):
        return True

    def read_floor(self, target, draft, required, calls):
        self.read = required
        return {"floor_us": 1.0, "floor_kernel": "none"}

    def copy_floor(self, source, kept, calls):
        assert all(not torch.equal(x, y) for x, y in zip(source, kept[1:], strict=False))
        return {"floor_us": 1.0, "floor_kernel": "none"}


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(baselines, "compiled", lambda function, device="cpu": function)
    peers = gpu_peers.plain(baselines.verify, "cpu")
    return HostBench("cpu", peers, {"vllm": "its sources were not given (--peers)"})


# ---- bytes ---------------------------------------------------------------------------------------


def test_required_rows_by_hand():
    """Two requests with three drafts: one rejects its second draft, one accepts all."""
    accepted = [1, 3]
    assert required_rows("token", accepted, 3) == Required([0, 1, 4, 5, 6, 7], [1])
    assert required_rows("greedy", accepted, 3) == Required([0, 1, 4, 5, 6, 7], [])
    assert required_rows("gumbel", accepted, 3) == Required([0, 1, 4, 5, 6, 7], [])
    assert required_rows("block", accepted, 3) == Required(list(range(8)), list(range(6)))


@pytest.mark.parametrize("filters", [{}, FILTERS], ids=["plain", "filtered"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_agreement_is_the_acceptance(filters, dtype):
    row = 1024 * dtype.itemsize
    none = Round(8, 4, 1024, dtype, 0.0, **filters)
    assert none.work() == (8 * 2 * row, 0.0), "a target and a draft row of each request"
    every = Round(8, 4, 1024, dtype, 1.0, **filters)
    assert every.work() == (8 * 5 * row, 1.0), "every target row, no draft row"
    nbytes, acceptance = Round(64, 4, 1024, dtype, 0.7, **filters).work()
    assert 0.65 < acceptance < 0.75  # 5 standard deviations of some 700 tested drafts
    assert 64 * 2 * row < nbytes < 64 * 5 * row


@pytest.mark.parametrize("rule", ["gumbel", "greedy", "block"])
def test_rules_accept_what_agrees(rule):
    assert Round(8, 4, 512, torch.float32, 1.0, rule).work()[1] == 1.0
    assert Round(8, 4, 512, torch.float32, 0.0, rule).work()[1] == 0.0


def test_buffer_sets_differ_and_keep_their_state_apart():
    rounds = Round(2, 3, 256, torch.float32, 0.7, sets=3)
    tokens = [rounds.verify(i).tokens.clone() for i in range(3)]
    assert not tokens[0].equal(tokens[1])
    pointers = {x.data_ptr() for x in (*rounds.target, *rounds.draft)}
    assert len(pointers) == 6
    assert len({proposal.num_active.data_ptr() for proposal in rounds.proposals}) == 3


# ---- the floor -----------------------------------------------------------------------------------

FLOOR = """
import sys
sys.path.insert(0, "bench")
import torch, floor
from rounds import Required
generator = torch.Generator().manual_seed(0)
for dtype in (torch.bfloat16, torch.float32):
    target, draft = (torch.randn(2, n, 5000, generator=generator).to(dtype) for n in (4, 3))
    required = Required([0, 1, 7], [2, 5])
    words = [floor.words_of(x).flatten(0, 1) for x in (target, draft)]
    rows = torch.cat([words[0][required.target], words[1][required.draft]])
    for variant in floor.VARIANTS[:2] + floor.VARIANTS[-1:]:
        call, sums = floor.read_call([target], [draft], [required], variant)
        call(0)
        assert sums.sum() == rows.sum(), "every word once"
        kept = torch.zeros_like(target[:, 0]).contiguous()
        floor.copy_call([target[:, 0].contiguous()], [kept], variant)(3)
        assert kept.equal(target[:, 0])
print("right")
"""


def test_floor_reads_the_required_rows_and_no_other():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = run([sys.executable, "-c", FLOOR], env=environment)
    assert done.stdout.strip() == "right", done.stderr


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False, **options
    )


# ---- rows ----------------------------------------------------------------------------------------


EMPTY = {"empty_kernel_us": 1.0, "empty_pair_us": 2.0}


def small(op: str, **fields) -> Case:
    return Case(op, **{"batch": 2, "vocab": 257, "slots": 2, "peers": True, **fields})


def test_rows_have_what_the_tables_need(host, tmp_path):
    cases = [
        small("verify"), small("verify", filters=FILTERS), small("verify", rule="gumbel"),
        small("draft_step"), small("draft_step", filters=FILTERS), small("row_stats"),
        small("bandit step"), small("tree_layout", nodes=9), small("tree_verify", nodes=6),
        small("tree_verify", nodes=6, rule="greedy"), small("compact_kv", nodes=20),
    ]  # fmt: skip
    shared = {"gpu": "no GPU", "torch": "0", "triton": "0", "commit": "0",
              "command": "python bench_gpu.py", **EMPTY}  # fmt: skip
    path = tmp_path / "gpu.jsonl"
    with path.open("w") as out:
        assert bench_gpu.measure([host], cases, shared, out, float("inf")) == 0
    rows = report.read_rows(path)
    assert [row["op"] for row in rows] == [case.op for case in cases]
    for row in rows:
        assert {"median_us", "p20_us", "p80_us", "runs", *shared} <= row.keys()
        assert row["op"] in ("bandit step", "tree_layout") or row["of_floor"] == round(
            1 / row["median_us"], 3
        )
        assert not [name for name in row if name.endswith("_missing") and name != "vllm_missing"]
    assert all(rows[i][f"times_{name}"] > 0 for i in (0, 1, 3, 4) for name in ("eager", "compile"))
    assert rows[0]["vllm_missing"] == "its sources were not given (--peers)"
    assert rows[3]["bytes"] == 2 * 2 * 257 * 2
    table = report.table(rows)
    assert table.count("\n") == len(rows) + 3
    assert "of the floor" in table


def test_backends_are_measured_beside_each_other(host, tmp_path):
    """Peers are timed once, and every row says how it compares with them."""
    second = HostBench("reference", {}, {})
    with (tmp_path / "rows").open("w") as out:
        cases = [small("verify"), small("bandit step")]
        assert bench_gpu.measure([host, second], cases, EMPTY, out, float("inf")) == 0
    rows = report.read_rows(tmp_path / "rows")
    assert [(row["op"], row["backend"]) for row in rows] == [
        (case.op, name) for case in cases for name in ("cpu", "reference")
    ]
    for first, other in (rows[:2], rows[2:]):
        assert other["cpu_us"] == first["median_us"]
        assert other["times_cpu"] == round(first["median_us"] / other["median_us"], 2)
        assert "times_reference" not in first
    assert rows[1]["eager_us"] == rows[0]["eager_us"]
    assert rows[1]["times_eager"] == round(rows[0]["eager_us"] / rows[1]["median_us"], 1)
    assert rows[1]["vllm_missing"] == rows[0]["vllm_missing"]
    assert rows[0]["of_empty_pair"] == round(rows[0]["median_us"] / 2.0, 2)
    same = {"gpu": "no GPU", "torch": "0", "triton": "0", "commit": "0", "command": "x"}
    table = report.table([{**row, **same} for row in rows])
    assert "backend cpu, reference" in table
    assert "| operator | backend |" in table


def test_a_round_graph_is_timed_beside_its_parts(host, driver, tmp_path):
    """By the CUDA library alone."""
    host.backend, host.captured, host.slow_times_us = "cuda", driver.captured, host.times_us
    case = Case("round graph", 1, slots=3)
    with (tmp_path / "rows").open("w") as out:
        others = [HostBench("triton", {}, {}), host]
        assert bench_gpu.measure(others, [case], EMPTY, out, float("inf")) == 0
    (row,) = report.read_rows(tmp_path / "rows")
    assert (row["op"], row["K"], row["backend"]) == ("round graph", 3, "cuda")
    expected = (row["median_us"] - row["replay_us"]) / 3
    assert row["step_over_replay_us"] == pytest.approx(expected, abs=0.01)
    assert row["host_us"] > 0


def test_the_floor_of_a_row_reads_its_bytes(host):
    row = bench_gpu.verify_row(host, small("verify", batch=16))
    rows = sum(len(one.target) + len(one.draft) for one in host.read)
    assert row["bytes"] == rows * 257 * 2 // len(host.read)


def test_a_wrong_kernel_is_not_timed_and_the_rest_is(host, monkeypatch, tmp_path, capsys):
    correct = bench_gpu.tk.verify

    def wrong(*args, backend=None, **kwargs):
        verdict = correct(*args, backend=backend, **kwargs)
        if backend == "cpu":
            verdict.tokens[0, 0] = (verdict.tokens[0, 0] + 1) % 257
        return verdict

    monkeypatch.setattr(bench_gpu.tk, "verify", wrong)
    with (tmp_path / "rows").open("w") as out:
        cases = [small("verify"), small("verify", rule="greedy"), small("bandit step")]
        assert bench_gpu.measure([host], cases, EMPTY, out, float("inf")) == 2
    rows = report.read_rows(tmp_path / "rows")
    assert ["wrong result" in row.get("refused", "") for row in rows] == [True, True, False]
    assert "median_us" not in rows[0]
    assert capsys.readouterr().out.count("REFUSED") == 2


def test_a_wrong_or_broken_peer_leaves_its_reason(host):
    def uniform(target, draft, tokens, **_):
        return torch.zeros(len(tokens), dtype=torch.int64), torch.randint(5, (len(tokens),))

    def broken(*_, **__):
        raise ImportError("no such kernel")

    host.peers = {name: gpu_peers.plain(f, "cpu")["eager"] for name, f in
                  {"uniform": uniform, "broken": broken}.items()}  # fmt: skip
    row = bench_gpu.verify_row(host, small("verify"))
    assert row["uniform_missing"] == "uniform: wrong law, not timed"
    assert row["broken_missing"] == "ImportError: no such kernel"
    assert not [name for name in row if name.startswith("times_")]


def test_the_time_is_kept(host, tmp_path, capsys):
    with (tmp_path / "rows").open("w") as out:
        bench_gpu.measure([host], [small("verify")] * 3, EMPTY, out, time.monotonic() - 1)
    assert (tmp_path / "rows").read_text() == ""
    assert "3 of 3 shapes not measured" in capsys.readouterr().out


def test_without_results_the_table_says_that_there_are_none(tmp_path):
    text = "<!-- table: bench/results/none.jsonl -->\nold\n<!-- end -->"
    made = report.with_tables(text, tmp_path)
    assert "old" not in made
    assert "no number" in made.lower()
