"""Operators on the CPU beside plain PyTorch and other packages: check, time, one JSON row each.

python bench/bench_ops.py --out bench/results/cpu.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bandit_native
import baselines
import checks
import peer_packages
import torch
from harness import environment, read_gb_s, summary, times_us, write_rows
from rounds import Round

import tapout_kernels as tk

BASELINES = ("eager", "topk", "compile")  # the other columns are peers
Row = dict[str, object]
Call = Callable[[int], object]  # of the buffer set


def bench_verify(vocab: int, dtype: torch.dtype, agreement: float, others: dict) -> Row:
    case = Round(8, 5, vocab, dtype, agreement)
    for i in range(case.sets):
        ours = case.verify(i).tokens.clone()
        expected = case.verify(i, "reference").tokens
        checks.verified(f"verify at V={vocab}", ours, expected, case.target[i], case.draft[i])
    functions = {"eager": baselines.verify, "compile": baselines.compiled(baselines.verify)}
    nbytes, acceptance = case.work()
    for name, function in {**functions, **others}.items():
        if name != "compile":  # compiled for one shape: held against eager's numbers instead
            checks.verify_law(name, function)
        torch.manual_seed(0)
        accepted, following = case.baseline(function, 0)
        checks.certain_drafts(name, accepted, case.verify(0))
        if name == "eager":
            eager = torch.stack([accepted, following])
        elif name == "compile":
            checks.same(name, torch.stack([accepted, following]), eager, 0.0)
    shape = {"B": 8, "K": 5, "V": vocab, "acceptance": round(acceptance, 2)}
    calls = {name: partial(case.baseline, f) for name, f in {**functions, **others}.items()}
    reference = partial(case.verify, backend="reference")
    return _row("verify", shape, dtype, times_us(case.verify), nbytes, calls, reference)


def bench_rule(rule: str, vocab: int, dtype: torch.dtype, agreement: float) -> Row:
    """A rule no plain code stands beside; its tokens are the reference's at a small size."""
    small = Round(8, 5, 1025, torch.float32, agreement, rule)
    for i in range(small.sets):
        ours = small.verify(i).tokens.clone()
        if not torch.equal(ours, small.verify(i, "reference").tokens):
            checks.refuse(f"verify, rule {rule}", "wrong result")
    case = Round(8, 5, vocab, dtype, agreement, rule)
    _, acceptance = case.work()
    shape = {"rule": rule, "B": 8, "K": 5, "V": vocab, "acceptance": round(acceptance, 2)}
    return _row("verify", shape, dtype, times_us(case.verify, before=case.rewind))


def bench_draft_step(batch: int, vocab: int, dtype: torch.dtype, **filters: float) -> Row:
    """``filters``: top_k and top_p, or none."""
    case = Round(batch, 1, vocab, dtype, 0.0)
    sampling = tk.SamplingParams.of(batch, **filters)
    out = torch.empty(batch, dtype=torch.int64)

    def logits(i: int) -> torch.Tensor:  # the draft's own are where the operator writes
        return case.target[i % case.sets][:, 0]

    def reset(i: int) -> None:
        case.proposals[i % case.sets].reset(case.rngs[i % case.sets])

    def step(i: int, backend: str | None = None) -> torch.Tensor:
        return tk.draft_step(
            logits(i), case.proposals[i % case.sets], sampling, case.rngs[i % case.sets], out=out,
            backend=backend,
        )  # fmt: skip

    def both(i: int) -> torch.Tensor:
        reset(i)
        return step(i, "reference")

    reset(0)
    ours = step(0).clone()
    case.rngs[0].round.sub_(1)
    if not torch.equal(ours, both(0)):
        checks.refuse(f"draft_step at V={vocab}", "wrong result")
    functions = _checked_draft_steps(logits(0), sampling, filters)
    nbytes = 2 * batch * vocab * dtype.itemsize  # read, and stored in the proposal
    calls = {
        name: lambda i, f=function: f(logits(i), **filters) for name, function in functions.items()
    }
    shape = {"B": batch, "V": vocab, **filters}
    return _row("draft_step", shape, dtype, times_us(step, before=reset), nbytes, calls, both)


def _checked_draft_steps(logits: torch.Tensor, sampling: tk.SamplingParams, filters: dict) -> dict:
    functions = {"eager": baselines.draft_step}
    if filters:
        functions = {"eager": baselines.draft_step_sorted, "topk": baselines.draft_step_topk}
    for name, function in functions.items():
        checks.draft_step_law(name, function, **({"top_k": 3, "top_p": 0.8} if filters else {}))
    functions["compile"] = baselines.compiled(functions["eager"])
    for name, function in functions.items():
        # Ties at a bfloat16 cutoff are kept by the operator and split by a sort.
        found, tolerance = function(logits, **filters), 0.1 if filters else 1e-3
        checks.draft_step_numbers(name, found, logits, sampling, tolerance)
    return functions


def bench_row_stats(batch: int, vocab: int, dtype: torch.dtype) -> Row:
    case = Round(batch, 1, vocab, dtype, 0.0)
    out = torch.empty(batch, 8)

    def run(i: int, backend: str | None = None) -> torch.Tensor:
        return tk.row_stats(case.draft[i % case.sets][:, 0], out=out, backend=backend)

    reference = run(0, "reference").clone()
    checks.same("row_stats", run(0), reference, 1e-4)
    plain = baselines.row_stats
    functions = {"eager": plain, "compile": baselines.compiled(plain)}
    for name, function in functions.items():
        checks.same(name, function(case.draft[0][:, 0]), reference[:, :4], 1e-3)
    calls = {
        name: lambda i, f=function: f(case.draft[i % case.sets][:, 0])
        for name, function in functions.items()
    }
    nbytes = batch * vocab * dtype.itemsize
    shape = {"B": batch, "V": vocab}
    on_reference = partial(run, backend="reference")
    return _row("row_stats", shape, dtype, times_us(run), nbytes, calls, on_reference)


def bench_bandit(batch: int, arms: int) -> Row:
    """Both operators through Python, arguments checked and dispatched."""
    ours, reference = (bandit_native.stepper(batch, arms, name) for name in (None, "reference"))
    if not all(torch.equal(ours(i), reference(i)) for i in range(3)):
        checks.refuse("bandit", "wrong arms")
    return _row("bandit update + select", {"B": batch, "A": arms}, None, times_us(ours))


def bench_bandit_native(batch: int, arms: int) -> Row:
    """The kernels alone, called from C++."""
    samples = bandit_native.times_us(batch, arms)
    return _row("bandit update + select, in C++", {"B": batch, "A": arms}, None, samples)


def _row(
    op: str,
    shape: dict,
    dtype: torch.dtype | None,
    ours: list[float],
    nbytes: int = 0,
    calls: dict[str, Call] | None = None,
    reference: Call | None = None,
) -> Row:
    """The row of one operator, its baselines and peers (``calls``) timed now, after it."""
    row: Row = {"op": op, **shape, **summary(ours), "bytes": nbytes}
    if dtype is not None:
        row["dtype"] = str(dtype).removeprefix("torch.")
    if nbytes:
        row["gb_s"] = round(nbytes / row["median_us"] / 1e3, 2)
    if reference is not None:
        slowest = times_us(reference, budget_s=0.0, least=2)
        row["reference_us"] = summary(slowest)["median_us"]
    for name, call in (calls or {}).items():
        times = times_us(call)
        row[f"{name}_us"] = summary(times)["median_us"]
        row[f"times_{name}"] = round(row[f"{name}_us"] / row["median_us"], 1)
        if name in BASELINES:
            checks.not_slower(f"{op}: {name}", times[0], slowest[0])
    return row


def cases(others: dict) -> list[Callable[[], Row]]:
    bf16, f32 = torch.bfloat16, torch.float32
    return [
        partial(bench_verify, 128256, bf16, 0.0, others),
        partial(bench_verify, 128256, bf16, 0.7, others),
        partial(bench_verify, 128256, bf16, 1.0, others),
        partial(bench_verify, 49152, f32, 0.7, {}),
        *(partial(bench_rule, rule, 128256, bf16, 0.7) for rule in ("block", "gumbel")),
        partial(bench_draft_step, 8, 128256, bf16),
        partial(bench_draft_step, 1, 128256, bf16),
        partial(bench_draft_step, 8, 128256, bf16, top_k=50, top_p=0.9),
        partial(bench_row_stats, 8, 128256, bf16),
        partial(bench_bandit, 64, 8),
        partial(bench_bandit_native, 64, 8),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu.jsonl"))
    parser.add_argument("--peers", type=Path, help="folder `make bench-peers` installed into")
    arguments = parser.parse_args()
    others = peer_packages.load(arguments.peers) if arguments.peers else {}
    installed = peer_packages.versions(arguments.peers) if arguments.peers else {}
    shared = {
        **environment(),
        **{f"{name}_version": installed[name] for name in others},
        "read_gb_s": round(read_gb_s(), 1),
    }
    rows = []
    for case in cases(others):
        row = {**case(), **shared}
        if "gb_s" in row:
            row["of_read"] = round(row["gb_s"] / shared["read_gb_s"], 3)
        rows.append(row)
        print(f"{row['op']}: {row['median_us']} us", flush=True)
    write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
