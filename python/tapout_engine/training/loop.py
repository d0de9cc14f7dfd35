"""The training loop: distillation within a time budget, resumable, with measurements on the way."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import torch

from .batches import Batch, epoch
from .distill import Distill
from .measure import Acceptance, measure
from .students import Student

TOKENS = 768  # of a batch: many small updates learn faster than few large ones
RATE = 1e-3  # the highest learning rate
AGAIN = 4e-4  # of a student that was trained before
WARMUP = 0.03  # share of the budget during which the rate rises
ALONE = 0.4  # share of the budget during which a new student is trained in its first step only
DECAY = 0.8  # what a step's loss counts less than that of the step before
MEASURES = 6  # measurements of acceptance on the way
SAVE = 120.0  # seconds between checkpoints


@dataclass
class Progress:
    """How far training has come; all that is needed to go on besides weights."""

    seconds: float = 0.0
    epochs: int = 0
    batch: int = 0  # of this epoch
    updates: int = 0
    tokens: int = 0


class Trainer:
    """Trains a student on shards until its time is up.

    Parameters
    ----------
    student : Student
    full_head : Tensor
        [V, hidden]: the target's head; its dtype is that of all products.
    train : sequence of Path
        Shards to learn from.
    judged : dict of str to list of Batch
        Texts kept for measuring, by kind.
    seconds : float
        Budget; the learning rate follows it down to zero.
    checkpoint : Path
        Written every two minutes; if it exists, training goes on from there.
    """

    def __init__(
        self,
        student: Student,
        full_head: torch.Tensor,
        train: Sequence[Path],
        judged: dict[str, list[Batch]],
        seconds: float,
        checkpoint: Path,
        seed: int = 0,
    ):
        self.student, self.full_head = student, full_head
        self.teacher_head = full_head[student.vocab]
        self.train, self.judged = train, judged
        self.seconds, self.checkpoint, self.seed = seconds, checkpoint, seed
        self.rate, self.alone = (AGAIN, 0.0) if student.trained else (RATE, ALONE)
        self.optimizer = torch.optim.AdamW(
            student.module.parameters(), lr=self.rate, betas=(0.9, 0.95), weight_decay=0.01,
            fused=True,
        )  # fmt: skip
        steps = torch.arange(student.steps, device=full_head.device)
        self.weights = DECAY**steps / (DECAY**steps).sum()
        self.progress = Progress()
        self.losses: list[tuple[int, list[float]]] = []  # after so many tokens, of each step
        self.measured: list[tuple[int, dict[str, Acceptance]]] = []
        if checkpoint.exists():
            self._load()

    def run(self, told: Callable[[Progress, list[float]], None]) -> None:
        """Train; ``told(progress, losses)`` after every update."""
        saved = self.progress.seconds
        begin = perf_counter() - saved
        for batch in self._batches():
            self.progress.seconds = perf_counter() - begin
            if self.progress.seconds >= self.seconds:
                break
            if self.progress.seconds - saved > SAVE:
                self._save()
                saved = self.progress.seconds
            if self.progress.seconds >= len(self.measured) * self.seconds / MEASURES:
                self._measure()
            losses = self._update(batch)
            self.losses.append((self.progress.tokens, losses))
            told(self.progress, losses)
        self._measure()
        self._save()

    def _batches(self) -> Iterator[Batch]:
        while True:
            progress = self.progress
            batches = epoch(self.train, TOKENS, self.seed + progress.epochs)
            for index, batch in enumerate(batches):
                if index >= progress.batch and batch.taught.any():
                    yield batch
                    progress.batch = index + 1
            progress.epochs, progress.batch = progress.epochs + 1, 0

    def _update(self, batch: Batch) -> list[float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _schedule(self.progress.seconds / self.seconds)
        device = self.teacher_head.device
        batch = batch.to(device)
        dtype = self.teacher_head.dtype
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            features = self.student.features(batch, self._steps())
        rows = batch.taught.flatten().nonzero()[:, 0]
        student = features.flatten(1, 2)[:, rows]
        teacher = batch.hidden.flatten(0, 1)[rows].to(dtype)
        loss, losses = Distill.apply(
            student, teacher, self.student.head, self.teacher_head, self.weights[: len(student)]
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.updates += 1
        self.progress.tokens += len(rows)
        return losses.tolist()

    def _steps(self) -> int:
        """Later steps learn little before the first one has, and cost as much."""
        return 1 if self.progress.seconds < self.alone * self.seconds else self.student.steps

    def _measure(self) -> None:
        found = {
            kind: measure(self.student, self.full_head, batches)
            for kind, batches in self.judged.items()
        }
        self.measured.append((self.progress.tokens, found))

    def _save(self) -> None:
        state = {
            "module": self.student.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "losses": self.losses,
            "measured": [
                (tokens, {kind: asdict(value) for kind, value in found.items()})
                for tokens, found in self.measured
            ],
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.student.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.losses = state["losses"]
        self.measured = [
            (tokens, {kind: Acceptance(**value) for kind, value in found.items()})
            for tokens, found in state["measured"]
        ]


def _schedule(part: float) -> float:
    """Linear up, then a cosine down to zero."""
    if part < WARMUP:
        return max(part, 0.01 * WARMUP) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (part - WARMUP) / (1 - WARMUP))))
