"""A covering array of strength two: every pair of values of any two axes, in few rows."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

Row = dict[str, Hashable]


def all_pairs(axes: Mapping[str, Sequence[Hashable]], seed: int = 0) -> list[Row]:
    """Rows that contain every pair of values of every two axes (greedy, deterministic).

    Each row starts from a pair that is still missing; every other axis, in random order, takes
    the value that covers most missing pairs with what the row already has.
    """
    generator = np.random.default_rng(seed)
    missing = dict.fromkeys(pairs_of(axes))
    rows = []
    while missing:
        row: Row = dict(next(iter(missing)))
        for name in generator.permutation([name for name in axes if name not in row]):
            gains = [
                sum(frozenset([(name, value), old]) in missing for old in row.items())
                for value in axes[name]
            ]
            best = np.flatnonzero(np.array(gains) == max(gains))
            row[str(name)] = axes[name][int(generator.choice(best))]
        for pair in itertools.combinations(row.items(), 2):
            missing.pop(frozenset(pair), None)
        rows.append({name: row[name] for name in axes})
    return rows


def pairs_of(axes: Mapping[str, Sequence[Hashable]]) -> list[frozenset]:
    """Every pair of values of two different axes, as a set of two (axis, value)."""
    return [
        frozenset([(left, a), (right, b)])
        for left, right in itertools.combinations(axes, 2)
        for a, b in itertools.product(axes[left], axes[right])
    ]
