"""Slices of wide tests: what ``make test`` runs of them."""

from __future__ import annotations

import itertools

import pytest
from helpers.slices import positions


@pytest.mark.parametrize("cases", [1, 2, 7, 40, 517])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_a_slice_is_one_in_n_and_one_at_least(cases, n):
    for turn in range(4):
        found = positions(cases, n, turn)
        assert len(set(found)) == len(found) == -(-cases // n)
        assert set(found) <= set(range(cases))


@pytest.mark.parametrize("cases", [12, 40, 517])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_backends_run_all_cases_between_them(cases, n):
    taken = set().union(*(positions(cases, n, turn) for turn in range(n)))
    assert len(taken) >= cases - n, "but for what rounding leaves"


@pytest.mark.parametrize("inner", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_value_of_an_axis_is_in_a_slice(inner, n):
    """A plain stride of n would never see some of them."""
    outer = 6 * n
    pairs = list(itertools.product(range(outer), range(inner)))
    for turn in range(n):
        chosen = [pairs[i] for i in positions(len(pairs), n, turn)]
        assert {value for _, value in chosen} == set(range(inner))
        assert len({value for value, _ in chosen}) >= min(outer, len(chosen)) // 2
