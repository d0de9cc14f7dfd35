"""Operators on a GPU beside the floor, PyTorch and other packages: check, time, one row each.

python bench/bench_gpu.py --out bench/results/gpu.jsonl

The floor of a row is the best plain kernel over the bytes the operator has to move, in the same
buffers and the same run (``floor.py``).  Times are those of a call in a CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

import bandit_native
import baselines
import checks
import gpu_peers
import gpu_timing
import gpu_trees
import torch
from drafts import Drafts
from goals import goals_of
from gpu_bench import Bench, Row, beside_backend, reason, with_ratios
from gpu_cases import Case, selection
from gpu_loop import round_graph_row
from gpu_peers import Peer
from harness import gpu_environment, summary
from rounds import Required, Round

import tapout_kernels as tk
from tapout_kernels.backends import unavailable_reason

BACKENDS = ("triton", "cuda")
CHECKED = 4  # buffer sets held against the reference
GUMBEL_SETS = 24  # its calls move on in their sequences, so a replay takes every set once


def verify_row(bench: Bench, case: Case) -> Row:
    row_bytes = case.batch * case.vocab * case.dtype.itemsize
    moves = case.rule == "gumbel"
    every_row = case.agreement == 1 or case.rule == "block"
    touched = row_bytes * (case.slots + 1 if every_row else 1)  # at least
    sets = bench.sets_for(touched, GUMBEL_SETS if moves else 2)
    calls = sets if moves else gpu_timing.calls_for(sets)
    rounds = Round(
        case.batch, case.slots, case.vocab, case.dtype, case.agreement, case.rule, sets=sets,
        device=bench.device, **case.filters,
    )  # fmt: skip
    check_verify(bench.backend, case, rounds)
    nbytes, acceptance = rounds.work()
    call = partial(rounds.verify, backend=bench.backend)
    times = bench.times_us(call, calls, rounds.rewind if moves else None)
    row = {**case.shape(), "acceptance": round(acceptance, 2), **summary(times), "bytes": nbytes}
    row |= bench.read_floor(rounds.target, rounds.draft, rounds.required(), calls)
    if case.peers:
        few = min(sets, bench.sets_for(row_bytes * (2 * case.slots + 1)))  # they read every row

        def prepare(peer: Peer, i: int) -> Callable[[], object]:
            return peer.prepare(*rounds.inputs(i), **case.filters)

        row |= bench.beside(bench.peers, case, checks.verify_law, prepare, few, row["median_us"])
        row |= {f"{name}_missing": why for name, why in bench.missing.items()}
    return row


def check_verify(backend: str, case: Case, rounds: Round) -> None:
    """Acceptance at the measured size; tokens there (``token``) or where no sum is near a tie."""
    name = f"verify {case.rule} at V={case.vocab}"
    for i in range(min(CHECKED, rounds.sets)):
        rounds.rewind()
        ours = rounds.verify(i, backend)
        tokens, accepted = ours.tokens.clone(), ours.num_accepted.clone()
        rounds.rewind()
        expected = rounds.verify(i, "reference")
        if not torch.equal(accepted, expected.num_accepted):
            checks.refuse(name, "wrong result")
        if case.rule == "token":
            rows = (rounds.target[i], rounds.draft[i])
            checks.verified(name, tokens, expected.tokens, *rows, backend, **case.filters)
    if case.rule != "token":
        device = rounds.target[0].device.type
        small = Round(8, case.slots, 1025, torch.float32, case.agreement, case.rule, device=device)
        tokens = small.verify(0, backend).tokens.clone()
        small.rewind()
        if not torch.equal(tokens, small.verify(0, "reference").tokens):
            checks.refuse(name, "wrong result")


def draft_step_row(bench: Bench, case: Case) -> Row:
    nbytes = 2 * case.batch * case.vocab * case.dtype.itemsize  # read, and stored in the proposal
    sets = bench.sets_for(nbytes)
    calls = gpu_timing.calls_for(sets)
    drafts = Drafts(case, bench.backend, bench.device, sets, calls)
    drafts.check(CHECKED)
    times = bench.times_us(drafts.step, calls, drafts.reset)
    row = {**case.shape(), **summary(times), "bytes": nbytes}
    kept = [proposal.logits[:, 0] for proposal in drafts.proposals]
    row |= bench.copy_floor(drafts.logits, kept, calls)
    if case.peers:

        def prepare(peer: Peer, i: int) -> Callable[[], object]:
            return peer.prepare(drafts.logits[i], **case.filters)

        function = baselines.draft_step_topk if case.filters else baselines.draft_step
        peers = gpu_peers.plain(function, bench.device) if bench.peers else {}
        row |= bench.beside(peers, case, checks.draft_step_law, prepare, sets, row["median_us"])
    return row


def row_stats_row(bench: Bench, case: Case) -> Row:
    nbytes = case.batch * case.vocab * case.dtype.itemsize
    sets = bench.sets_for(nbytes)
    calls = gpu_timing.calls_for(sets)
    logits = Drafts(case, bench.backend, bench.device, sets, 1).logits
    out = torch.empty(case.batch, 8, device=bench.device)

    def stats(i: int, backend: str = bench.backend) -> torch.Tensor:
        return tk.row_stats(logits[i % sets], out=out, backend=backend)

    for i in range(min(CHECKED, sets)):
        checks.same("row_stats", stats(i).clone(), stats(i, "reference"), 1e-4)
    row = {**case.shape(), **summary(bench.times_us(stats, calls)), "bytes": nbytes}
    required = [Required(list(range(case.batch)), [])] * sets
    return row | bench.read_floor(logits, logits, required, calls)


def bandit_row(bench: Bench, case: Case) -> Row:
    """One bandit's state, a few kilobytes: where an engine finds it too, in the L2."""
    names = (bench.backend, "reference")
    ours, expected = (
        bandit_native.stepper(case.batch, case.arms, name, bench.device) for name in names
    )
    if not all(torch.equal(ours(i), expected(i)) for i in range(5)):
        checks.refuse("bandit step", "wrong arms")
    return {**case.shape(), **summary(bench.times_us(ours, gpu_timing.calls_for(1)))}


ROWS: dict[str, Callable[[Bench, Case], Row]] = {
    "verify": verify_row, "draft_step": draft_step_row, "row_stats": row_stats_row,
    "bandit step": bandit_row, "round graph": round_graph_row,
    "tree_layout": gpu_trees.layout_row, "tree_verify": gpu_trees.verify_row,
    "compact_kv": gpu_trees.compact_row,
}  # fmt: skip


def measure(benches: list[Bench], cases: list[Case], shared: Row, out: TextIO, until: float) -> int:
    """Writes each row as it is made; the number of rows that hold no measurement."""
    lost = 0
    for number, case in enumerate(cases):
        if time.monotonic() > until:
            print(f"time is up: {len(cases) - number} of {len(cases)} shapes not measured")
            break
        before: dict[str, Row] = {}  # of this shape, by backend
        for bench in benches:
            if case.op == "round graph" and bench.backend != "cuda":
                continue  # its kernels are in that library
            row = one_row(bench, case, shared, before)
            before[bench.backend] = row
            lost += "refused" in row
            out.write(json.dumps(row) + "\n")
            out.flush()
            print(described(row), flush=True)
            if "refused" in row and not bench.alive():
                print("the device answers no more; the rest is not measured")
                return lost
    return lost


def one_row(bench: Bench, case: Case, shared: Row, before: dict[str, Row]) -> Row:
    try:
        row = ROWS[case.op](bench, case)
    except (Exception, SystemExit) as error:  # the other shapes may be right
        return {**case.shape(), "refused": reason(error), **shared, "backend": bench.backend}
    row = {**row, **shared, "backend": bench.backend}
    for name, other in before.items():
        row |= beside_backend(row, name, other)
    return with_ratios(row)


def described(row: Row) -> str:
    """One line of the short table."""
    names = ("backend", "rule", "B", "K", "N", "V", "A", "dtype", "acceptance", "top_k", "top_p")
    line = f"{row['op']} " + " ".join(f"{name}={row[name]}" for name in names if name in row)
    if "refused" in row:
        return f"{line}: REFUSED: {row['refused']}"
    line += f": {row['median_us']:.2f} us"
    if "of_floor" in row:
        line += f", floor {row['floor_us']:.2f} ({row['of_floor']:.0%})"
    peers = (name for name in row if name.startswith("times_"))
    line += "".join(f", {row[name]}x {name.removeprefix('times_')}" for name in peers)
    for goal, met in goals_of(row):
        line += f"; goal {goal}: {'met' if met else 'MISSED'}"
    return line


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu.jsonl"))
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, help="default: all that can run")
    parser.add_argument("--full", action="store_true", help="every shape, however long it takes")
    parser.add_argument("--seconds", type=float, default=240.0, help="begin no shape after these")
    parser.add_argument("--peers", type=Path, help="folder with FlashInfer's and vLLM's packages")
    parser.add_argument("--table", action="store_true", help="print the rows of --out, no more")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    if arguments.table:
        print("\n".join(described(json.loads(x)) for x in arguments.out.read_text().splitlines()))
        return 0
    until = time.monotonic() + (float("inf") if arguments.full else arguments.seconds)
    if not torch.cuda.is_available():
        raise SystemExit(f"bench_gpu: needs a GPU, torch {torch.__version__} sees none")
    off = {name: unavailable_reason(name, "cuda") for name in arguments.backend or BACKENDS}
    for name, why in off.items():
        if why is not None:
            print(f"bench_gpu: backend {name!r} is off: {why}")
    names = [name for name, why in off.items() if why is None]
    if not names or (arguments.backend and names != arguments.backend):
        raise SystemExit("bench_gpu: nothing to measure")
    found, missing = gpu_peers.load(arguments.peers)
    # Peers are timed once for each shape, beside the first backend.
    benches = [Bench(names[0], gpu_peers.plain(baselines.verify) | found, missing)]
    benches += [Bench(name, {}, {}) for name in names[1:]]
    shared = {
        **gpu_environment(), **gpu_peers.versions(list(found)),
        "empty_kernel_us": benches[0].empty_us(1), "empty_pair_us": benches[0].empty_us(2),
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w") as out:
        return int(measure(benches, selection(arguments.full), shared, out, until) > 0)


if __name__ == "__main__":
    sys.exit(main())
