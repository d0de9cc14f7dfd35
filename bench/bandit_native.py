"""The bandit's kernels from Python, and alone: bandit.cpp compiled, checked against the reference,
and timed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import checks
import torch

import tapout_kernels as tk

SLOTS = 5
ROUNDS = 2000
SOURCE = Path(__file__).parent / "bandit.cpp"
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")


def stepper(
    batch: int, arms: int, backend: str | None, device: str = "cpu"
) -> Callable[[int], torch.Tensor]:
    """One round of learning and choosing, for requests that accept 0 to 5 of 5 drafts."""
    proposal = tk.Proposal.empty(batch, SLOTS, device=device)
    verdict = tk.Verdict.empty(batch, SLOTS, device=device)
    proposal.live.fill_(True)
    proposal.length.fill_(SLOTS)
    verdict.num_accepted.copy_(torch.arange(batch) % (SLOTS + 1))
    bandit = tk.BanditState.create(arms, slots=SLOTS, device=device)
    arm = torch.zeros(batch, dtype=torch.int32, device=device)

    def step(_: int) -> torch.Tensor:
        if hasattr(tk, "bandit_step"):
            return tk.bandit_step(bandit, arm, proposal, verdict, out=arm, backend=backend)
        tk.bandit_update(bandit, arm, proposal, verdict, backend=backend)
        return tk.bandit_select(bandit, out=arm, backend=backend)

    return step


def times_us(batch: int, arms: int) -> list[float]:
    """Sorted microseconds of one round in C++."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "bandit"
        subprocess.run([compiler, *FLAGS, SOURCE, "-o", program], check=True)

        def run(rounds: int) -> list[list[int]]:
            command = [program, str(batch), str(arms), str(rounds)]
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            return [[int(word) for word in line.split()] for line in lines.splitlines()]

        reference = stepper(batch, arms, "reference")
        for rounds in range(1, 6):
            if run(rounds)[0] != reference(0).tolist():
                checks.refuse("bandit in C++", "wrong arms")
        return sorted(n / 1e3 for n in run(ROUNDS)[1])
