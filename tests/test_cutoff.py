"""Cutoffs of compiled backends, found without a sort, against a sort."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import cutoffs
from helpers.cutoffs import DTYPES, VOCABS, Filters
from helpers.device import few, interpreted_if
from test_isa import available, python

NEAR = 1e-5  # contract 7: a mass or a ratio this close to its limit may go either way


class Sorted:
    """One row's finite logits, descending, in float64."""

    def __init__(self, row: torch.Tensor):
        z = row.double().numpy()
        self.z = np.sort(z[z > -np.inf])[::-1] + 0.0  # no -0
        self.vocab = len(row)

    def cutoff(self, chosen: Filters, slack: float) -> float:
        """The definition, with the limits of top-p and min-p raised by a relative ``slack``."""
        z = self.z
        w = np.exp((z - z[0]) / np.float64(np.float32(chosen.temperature)))
        kept = len(z)
        if 0 < chosen.top_k < self.vocab:
            kept = np.count_nonzero(z >= z[min(chosen.top_k, kept) - 1])
        if np.float32(chosen.top_p) < 1:
            mass = np.cumsum(w[:kept])
            goal = np.float64(np.float32(chosen.top_p)) * mass[-1] * (1 + slack)
            kept = min(np.searchsorted(mass, goal) + 1, kept)
        if chosen.min_p > 0:
            limit = min(1.0, np.float64(np.float32(chosen.min_p))) * (1 + slack)
            kept = max(1, min(np.count_nonzero(w >= limit), kept))
        return z[kept - 1]


INTERPRETED = {(7, torch.float32), (8193, torch.float32), (8193, torch.bfloat16)}


@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [interpreted_if((v, d) in INTERPRETED, v, d) for v in VOCABS for d in DTYPES],
)
@pytest.mark.sliced(4)
def test_cutoff_equals_a_sort(compiled, vocab, dtype):
    torch.set_num_threads(2)
    logits = cutoffs.rows(vocab, dtype)
    rows = [Sorted(row) for row in logits]
    for chosen in cutoffs.filters(vocab)[:: few(compiled, 1, 1 + vocab // 2000)]:
        found = cutoffs.cutoffs(logits, chosen, compiled).tolist()
        for number, (row, value) in enumerate(zip(rows, found, strict=True)):
            low, high = (row.cutoff(chosen, slack) for slack in (-NEAR, NEAR))
            low, high = min(low, high), max(low, high)
            assert low <= value <= high, (chosen, number)
            assert value in row.z, (chosen, number)
            assert not (value == 0 and np.signbit(value)), (chosen, number)
        if chosen.top_p >= 1 and chosen.min_p <= 0:
            assert found == [row.cutoff(chosen, 0.0) for row in rows], chosen


def test_a_wrong_cutoff_would_be_noticed():
    """The allowance is narrower than one logit, where logits differ."""
    row = Sorted(torch.randn(1025, generator=torch.Generator().manual_seed(0)))
    for chosen in (Filters(top_p=0.9), Filters(min_p=0.1), Filters(50, 0.9)):
        assert row.cutoff(chosen, -NEAR) == row.cutoff(chosen, NEAR)


def test_cutoffs_are_bit_equal_on_every_instruction_set_and_thread_count():
    reports = []
    for isa in available():
        done = python("-m", "helpers.cutoffs", isa=isa)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    assert [report["isa"] for report in reports] == available()
    assert len({digest for report in reports for digest in report["digests"]}) == 1
