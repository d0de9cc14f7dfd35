"""Acceptance on texts that were not trained on, slot by slot, without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .batches import Batch
from .students import Student


@dataclass
class Acceptance:
    """How good a drafter is in each step, given that every draft before was accepted.

    ``greedy``: share of positions where both would say the same; ``sampled``: mean overlap of the
    two distributions, which is the chance that rejection sampling accepts. Of the whole vocabulary.
    """

    greedy: list[float]
    sampled: list[float]


@torch.no_grad()
def measure(student: Student, full_head: torch.Tensor, batches: Sequence[Batch]) -> Acceptance:
    """Acceptance of ``student`` on ``batches``; ``full_head`` [V, hidden] is the target's."""
    agreed = torch.zeros(student.steps)
    shared = torch.zeros(student.steps)
    count = 0
    for batch in batches:
        batch = batch.to(full_head.device)
        narrow = full_head.dtype == torch.bfloat16
        with torch.autocast(full_head.device.type, torch.bfloat16, enabled=narrow):
            features = student.features(batch, student.steps)
        rows = batch.taught.flatten().nonzero()[:, 0]
        count += len(rows)
        for part in rows.split(512):
            hidden = batch.hidden.flatten(0, 1)[part].to(full_head.dtype)
            p_target = (hidden @ full_head.T).float().softmax(-1)
            best = p_target.argmax(-1)
            p_target = p_target[:, student.vocab]
            head = student.head.to(full_head.dtype)
            for step, states in enumerate(features.flatten(1, 2)[:, part].to(head.dtype)):
                p_draft = (states @ head.T).float().softmax(-1)
                agreed[step] += (student.vocab[p_draft.argmax(-1)] == best).sum().cpu()
                shared[step] += torch.minimum(p_draft, p_target).sum().cpu()
    return Acceptance((agreed / count).tolist(), (shared / count).tolist())
