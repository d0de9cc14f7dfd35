"""Pearson's test of counts against an exactly known law."""

from __future__ import annotations

import numpy as np
from scipy import stats
from torch import Tensor

LEAST_EXPECTED = 5.0


def p_value(samples: Tensor, law: np.ndarray) -> float:
    """Probability of a statistic at least this large if ``samples`` [N, M] follow ``law`` [V]*M.

    Cells expected fewer than five times are one cell together, without which the statistic does
    not follow the chi-squared distribution.  A sample in a cell of probability 0 is a certainty.
    """
    cells = np.ravel_multi_index(tuple(samples.T.numpy()), law.shape)
    found = np.bincount(cells, minlength=law.size).astype(float)
    expected = law.ravel() * len(samples)
    if found[expected == 0].any():
        return 0.0
    rare = expected < LEAST_EXPECTED
    found = np.append(found[~rare], found[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    found, expected = found[kept], expected[kept]
    statistic = ((found - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(found) - 1))
