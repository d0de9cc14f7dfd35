"""Where two greedy runs part, and whether rounding explains it.

A verify forward reads several tokens at once, plain decoding one: the same sums in another
order. Where two tokens are closer than rounding, either is a right answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from .engine import Target


@dataclass(frozen=True)
class Divergence:
    """The first position where two runs differ.

    ``margin`` is how far the lesser of the two tokens lies below the best logit, ``rounding``
    what rounding to bf16 can make of it: half a spacing for each of two logits in each of two
    runs.
    """

    position: int
    expected: int | None
    got: int | None
    margin: float
    rounding: float

    @property
    def explained(self) -> bool:
        return self.margin <= self.rounding

    def __str__(self) -> str:
        sign = "within" if self.explained else "EXCEEDS"
        return (
            f"plain at token {self.position}: top-2 margin {self.margin:.3g} "
            f"{sign} bf16 rounding ({self.rounding:.3g})"
        )


def first_divergence(
    target: Target, prompt: Sequence[int], expected: Sequence[int], got: Sequence[int]
) -> Divergence | None:
    """Compare two continuations of one prompt; None if they are equal."""
    pairs = list(zip_longest(expected, got))
    position = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if position is None:
        return None
    if None in pairs[position]:  # one ended early: no rounding does that
        return Divergence(position, *pairs[position], margin=float("inf"), rounding=0.0)
    prefix = [*prompt, *expected[:position]]
    target.prefill([prefix])
    logits = target.forward(torch.tensor([prefix[-1:]], device=target.device))[0, -1]
    best = logits.max().float()
    pair = logits[[expected[position], got[position]]].float()
    return Divergence(
        position, expected[position], got[position],
        margin=float(best - pair.min()), rounding=2 * _bf16_spacing(best),
    )  # fmt: skip


def _bf16_spacing(value: torch.Tensor) -> float:
    """Distance from ``value`` to the next bf16 number."""
    exponent = torch.frexp(value).exponent.item() - 1
    return torch.finfo(torch.bfloat16).eps * 2.0**exponent
