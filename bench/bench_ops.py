"""Operators on the CPU beside plain PyTorch: validate, time, write one JSON row each.

python bench/bench_ops.py --out bench/results/cpu.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import baselines
import torch
from harness import environment, read_gb_s, summary, times_us, write_rows

import tapout_kernels as tk

SETS = 4  # buffer sets in rotation; those of the small shapes fit the last-level cache together


class Round:
    """B requests with K drafts each over V ids; ``agreement`` mixes the draft into the target."""

    def __init__(self, batch: int, slots: int, vocab: int, dtype: torch.dtype, agreement: float):
        generator = torch.Generator().manual_seed(0)

        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * 3

        self.batch, self.slots, self.vocab = batch, slots, vocab
        self.sampling = tk.SamplingParams()
        self.draft = [randn(batch, slots, vocab).to(dtype) for _ in range(SETS)]
        self.target = [randn(batch, slots + 1, vocab).to(dtype) for _ in range(SETS)]
        self.rng = tk.RngState.of(list(range(batch)))
        keep = torch.rand(batch, generator=generator) < agreement
        for target, draft in zip(self.target, self.draft, strict=True):
            target[:, :slots] = torch.where(keep[:, None, None], draft, target[:, :slots])
        self.proposals = [self._propose(draft) for draft in self.draft]
        self.verdict = tk.Verdict.empty(batch, slots)

    def _propose(self, draft: torch.Tensor) -> tk.Proposal:
        proposal = tk.Proposal.empty(self.batch, self.slots, self.vocab, draft.dtype)
        proposal.reset(self.rng)
        for j in range(self.slots):
            tk.draft_step(draft[:, j], proposal, self.sampling, self.rng)
        return proposal

    def verify(self, i: int, backend: str | None = None) -> tk.Verdict:
        i %= SETS
        return tk.verify(
            self.target[i], self.proposals[i], self.sampling, self.rng,
            out=self.verdict, backend=backend,
        )  # fmt: skip

    def bytes_verify(self) -> int:
        """Target rows up to the deciding one, and one draft row where it was a rejection."""
        verdict = self.verify(0)
        rejected = int((verdict.num_accepted < self.slots).sum())
        rows = int(verdict.num_emitted.sum()) + rejected
        return rows * self.vocab * self.target[0].element_size()


def bench_verify(vocab: int, dtype: torch.dtype, agreement: float) -> dict[str, object]:
    case = Round(8, 5, vocab, dtype, agreement)
    ours = case.verify(0).tokens.clone()
    if not torch.equal(ours, case.verify(0, "reference").tokens):
        raise SystemExit(f"verify at V={vocab}: wrong result, not timed")
    accepted = case.verdict.num_accepted.float().mean().item() / case.slots
    eager = times_us(
        lambda i: baselines.eager_verify(
            case.target[i % SETS], case.draft[i % SETS], case.proposals[i % SETS].tokens, 1.0
        )
    )
    shape = {"B": 8, "K": 5, "V": vocab, "acceptance": round(accepted, 2)}
    return _row("verify", shape, dtype, times_us(case.verify), eager, case.bytes_verify())


def bench_draft_step(batch: int, vocab: int, dtype: torch.dtype) -> dict[str, object]:
    case = Round(batch, 1, vocab, dtype, 0.0)
    out = torch.empty(batch, dtype=torch.int64)

    def step(i: int, backend: str | None = None) -> torch.Tensor:
        proposal = case.proposals[i % SETS]
        proposal.reset(case.rng)
        return tk.draft_step(
            case.draft[i % SETS][:, 0], proposal, case.sampling, case.rng, out=out, backend=backend
        )

    ours = step(0).clone()
    case.rng.round.sub_(1)
    if not torch.equal(ours, step(0, "reference")):
        raise SystemExit(f"draft_step at V={vocab}: wrong result, not timed")
    eager = times_us(lambda i: baselines.eager_draft_step(case.draft[i % SETS][:, 0], 1.0))
    nbytes = 2 * batch * vocab * dtype.itemsize  # read, and stored in the proposal
    shape = {"B": batch, "V": vocab}
    return _row("draft_step", shape, dtype, times_us(step), eager, nbytes)


def bench_row_stats(batch: int, vocab: int, dtype: torch.dtype) -> dict[str, object]:
    case = Round(batch, 1, vocab, dtype, 0.0)
    out = torch.empty(batch, 8)

    def run(i: int) -> torch.Tensor:
        return tk.row_stats(case.draft[i % SETS][:, 0], out=out)

    torch.testing.assert_close(
        run(0).clone(), tk.row_stats(case.draft[0][:, 0], backend="reference")
    )
    eager = times_us(lambda i: baselines.eager_row_stats(case.draft[i % SETS][:, 0]))
    nbytes = batch * vocab * dtype.itemsize
    return _row("row_stats", {"B": batch, "V": vocab}, dtype, times_us(run), eager, nbytes)


def bench_bandit(batch: int, arms: int) -> dict[str, object]:
    rng = tk.RngState.of(list(range(batch)))
    draft = tk.Proposal.from_tokens(torch.zeros(batch, 5, dtype=torch.int64), rng)
    verdict = tk.verify(torch.zeros(batch, 6, 8), draft, tk.SamplingParams(), rng)

    def stepper(backend: str | None = None) -> Callable[[int], torch.Tensor]:
        bandit, arm = tk.BanditState.create(arms, slots=5), torch.zeros(batch, dtype=torch.int32)

        def step(_: int) -> torch.Tensor:
            tk.bandit_update(bandit, arm, draft, verdict, backend=backend)
            return tk.bandit_select(bandit, out=arm, backend=backend)

        return step

    ours, reference = stepper(), stepper("reference")
    if not all(torch.equal(ours(i), reference(i)) for i in range(3)):
        raise SystemExit("bandit: wrong arms, not timed")
    return _row("bandit update + select", {"B": batch, "A": arms}, None, times_us(ours), None, 0)


def _row(
    op: str, shape: dict, dtype: torch.dtype | None, ours: list, eager: list | None, nbytes: int
) -> dict[str, object]:
    row: dict[str, object] = {"op": op, **shape, **summary(ours), "bytes": nbytes}
    if dtype is not None:
        row["dtype"] = str(dtype).removeprefix("torch.")
    if nbytes:
        row["gb_s"] = round(nbytes / row["median_us"] / 1e3, 2)
    if eager is not None:
        row["eager_us"] = summary(eager)["median_us"]
        row["times_eager"] = round(row["eager_us"] / row["median_us"], 1)
    return row


def cases() -> list[Callable[[], dict[str, object]]]:
    bf16, f32 = torch.bfloat16, torch.float32
    return [
        lambda: bench_verify(128256, bf16, 0.0),
        lambda: bench_verify(128256, bf16, 0.7),
        lambda: bench_verify(128256, bf16, 1.0),
        lambda: bench_verify(49152, f32, 0.7),
        lambda: bench_draft_step(8, 128256, bf16),
        lambda: bench_draft_step(1, 128256, bf16),
        lambda: bench_row_stats(8, 128256, bf16),
        lambda: bench_bandit(64, 8),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu.jsonl"))
    arguments = parser.parse_args()
    shared = {**environment(), "read_gb_s": round(read_gb_s(), 1)}
    rows = []
    for case in cases():
        row = {**case(), **shared}
        if "gb_s" in row:
            row["of_read"] = round(row["gb_s"] / shared["read_gb_s"], 3)
        rows.append(row)
    write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
