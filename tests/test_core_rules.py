"""csrc/core: sampling steps, acceptance and bandits against hand-made numbers."""

from __future__ import annotations

import ctypes
import itertools
import math

import numpy as np
import pytest
import torch
from helpers.core_probe import doubles

# ---- sampling ----------------------------------------------------------------------------------


def test_order_keys_sort_like_floats(core):
    values = [-math.inf, -3.4e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 1.5, 3.4e38, math.inf]
    keys = [core.probe_order_key(value) for value in values]
    assert keys == sorted(set(keys))
    for value, key in zip(values, keys, strict=True):
        assert core.probe_key_value(key) == np.float32(value)
    assert math.copysign(1, core.probe_key_value(core.probe_order_key(-0.0))) == 1


def test_bisection_finds_the_largest_that_passes(core):
    probes = ctypes.c_int()
    for low, high, limit in [(0, 0xFFFFFFFF, 12345), (7, 7, 7), (7, 8, 7), (7, 8, 8),
                             (0, 0xFFFFFFFF, 0xFFFFFFFF), (0, 0xFFFFFFFF, 0)]:  # fmt: skip
        found = core.probe_search(low, high, limit, ctypes.byref(probes))
        assert found == min(max(low, limit), high)
        assert probes.value <= 32


@pytest.mark.parametrize(
    ("weights", "target", "index", "before"),
    [
        ([1, 2, 3], 0.0, 0, 0.0),
        ([1, 2, 3], 0.999, 0, 0.0),
        ([1, 2, 3], 1.0, 1, 1.0),  # the prefix must exceed the target, not reach it
        ([1, 2, 3], 5.9, 2, 3.0),
        ([0, 2, 0, 1], 0.0, 1, 0.0),  # never an id of no mass
        ([0, 2, 0, 1, 0], 3.0, 3, 2.0),  # past the end: the last id of positive mass
        ([0, 0], 0.0, -1, 0.0),
        ([math.nan, 1], 0.5, 1, 0.0),
    ],
)
def test_inverse_cdf(core, weights, target, index, before):
    array, found = doubles(*weights), ctypes.c_double()
    assert (
        core.probe_inverse_cdf(array.ctypes.data, len(array), target, ctypes.byref(found)) == index
    )
    assert found.value == before


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p", "rule", "expected"),
    [
        (0.5, 3, 0.25, 0.5, 0, (1, 0, 0.5, 3, 0.25, 0.5, 1)),
        (1.0, 0, 1.0, 0.0, 0, (1, 0, 1.0, 0, 1.0, 0.0, 0)),
        (1.0, 10, 1.5, -1.0, 0, (1, 0, 1.0, 0, 1.0, 0.0, 0)),  # top_k = V, top_p > 1: off
        (1.0, 9, -1.0, 0.0, 0, (1, 0, 1.0, 9, -1.0, 0.0, 1)),
        (1.0, -2, math.nan, math.nan, 0, (1, 0, 1.0, 0, 1.0, 0.0, 0)),
        (1.0, 0, 1.0, 7.0, 0, (1, 0, 1.0, 0, 1.0, 1.0, 1)),  # the maximum and its ties
        (0.0, 3, 0.5, 0.5, 0, (1, 1, 1.0, 0, 1.0, 0.0, 0)),
        (9e-6, 0, 1.0, 0.0, 0, (1, 1, 1.0, 0, 1.0, 0.0, 0)),
        (-0.1, 0, 1.0, 0.0, 0, (0, 0, 1.0, 0, 1.0, 0.0, 0)),
        (math.nan, 0, 1.0, 0.0, 0, (0, 0, 1.0, 0, 1.0, 0.0, 0)),
        (math.nan, 3, 0.5, 0.5, 3, (1, 1, 1.0, 0, 1.0, 0.0, 0)),  # greedy looks at none of them
        (0.5, 3, 0.25, 0.5, 1, (1, 0, 0.5, 3, 0.25, 0.5, 1)),
        (0.5, 3, 0.25, 0.5, 2, (1, 0, 0.5, 3, 0.25, 0.5, 1)),
    ],
)
def test_sampling_parameters(core, temperature, top_k, top_p, min_p, rule, expected):
    out = np.zeros(7)
    core.probe_row_sampling(temperature, top_k, top_p, min_p, rule, 10, out.ctypes.data)
    assert tuple(out) == expected


def test_mask_bits_are_those_of_the_words(core):
    mask = np.array([1 << 31 | 1, 0, 2], dtype=np.uint32)
    allowed = [id for id in range(-40, 140) if core.probe_mask_allows(mask.ctypes.data, 3, id)]
    assert allowed == [0, 31, 65]
    assert not core.probe_mask_allows(mask.ctypes.data, 2, 65)  # a word the mask does not have


def test_min_p_compares_with_the_maximum(core):
    limit = math.log(0.25)
    assert core.probe_reaches(3.0, 3.0, 1.0, 1.0)
    assert core.probe_reaches(3.0 + limit + 1e-12, 3.0, 1.0, 0.25)
    assert not core.probe_reaches(3.0 + limit - 1e-12, 3.0, 1.0, 0.25)
    assert core.probe_reaches(3.0 + 2 * limit + 1e-12, 3.0, 0.5, 0.25)  # T = 2
    assert not core.probe_reaches(-math.inf, 3.0, 1.0, 1e-30)


def test_state_rows_outside_take_no_part(core):
    index = np.array([2, -1, 3, 0], dtype=np.int32)
    assert [core.probe_state_row(index.ctypes.data, 3, b) for b in range(4)] == [2, -1, -1, 0]
    assert [core.probe_state_row(None, 2, b) for b in range(3)] == [0, 1, -1]


@pytest.mark.parametrize(("dtype", "number"), [("float32", 0), ("bfloat16", 1), ("float16", 2)])
def test_bins_hold_one_logit_at_the_end(core, dtype, number):
    """Two rounds of bins lead a 16-bit logit back to itself, a float32 one close by."""
    generator = torch.Generator().manual_seed(number)
    scale = 10.0 ** torch.randint(-6, 4, (500,), generator=generator)
    values = torch.randn(500, generator=generator) * scale
    values = torch.cat([values, torch.zeros(1)]).to(getattr(torch, dtype)).float()
    low, high = values.min().item(), values.max().item()
    bin, shift = ctypes.c_int64(), ctypes.c_int()
    for value in values.tolist():
        found = core.probe_bin(low, high, number, value, ctypes.byref(bin), ctypes.byref(shift))
        assert 0 <= bin.value < 2048
        assert found == value if number else abs(found - value) <= abs(value) * 2.0**-10 + 1e-40


# ---- acceptance and bandits --------------------------------------------------------------------


def test_acceptance(core):
    assert not core.probe_accepts(2.0**-53, 0.0, 1.0)  # p_target = 0 is never accepted
    assert core.probe_accepts(1 - 2.0**-53, 0.25, 0.25)  # p_target = p_draft always is
    assert core.probe_accepts(0.49, 0.25, 0.5)
    assert not core.probe_accepts(0.5, 0.25, 0.5)  # strict
    assert core.probe_accept_probability(0.25, 0.5) == 0.5
    assert core.probe_accept_probability(0.5, 0.25) == 1.0
    assert core.probe_residual(0.5, 0.125) == 0.375
    assert core.probe_residual(0.125, 0.5) == 0.0
    assert core.probe_draft_probability(1e-6) == 1.0  # rounding must not exceed 1
    assert core.probe_draft_probability(-math.inf) == 0.0
    assert math.isnan(core.probe_draft_probability(math.nan))


def test_ucb1(core):
    assert core.probe_ucb1(0, 0, 8, 0.0) == math.inf
    assert core.probe_ucb1(0.5, 5, 8, 0.5) == pytest.approx(
        0.5 + 0.5 * math.sqrt(2 * math.log(8) / 5)
    )
    assert core.probe_ucb1(0, 2, 8, 1.0) == pytest.approx(math.sqrt(math.log(8)))
    for t in (0.0, 0.5, 1.0):  # ln t is never negative
        assert core.probe_ucb1(0.5, 4, t, 1.0) == 0.5
    assert core.probe_ucb1(0.5, 5e-324, 8, 0.0) == 0.5  # a count discounted to almost nothing


def test_ucb_tuned(core):
    assert core.probe_ucb_tuned(0, 0, 0, 8) == math.inf
    share = math.log(801) / 400
    assert core.probe_ucb_tuned(0.5, 0.01, 400, 801) == pytest.approx(
        0.5 + math.sqrt(share * (0.01 + math.sqrt(2 * share)))
    )
    assert core.probe_ucb_tuned(0.5, 0.2, 400, 801) == pytest.approx(0.5 + math.sqrt(share / 4))
    assert core.probe_ucb_tuned(0.5, 0.2, 400, 1) == 0.5


def test_ucbspec(core):
    """In units of L: 1/2 sqrt((1 + n) / n^2 (1 + 2 ln(A t^2 sqrt(1 + n) / delta))) on the mean."""
    assert core.probe_ucbspec(0.5, 0, 8, 2, 0.1) == math.inf
    for n, t, arms, delta in ((4, 14, 2, 0.1), (9, 14, 2, 0.1), (1, 1, 1, 0.9), (2.5, 8, 7, 0.01)):
        log = math.log(arms * t * t * math.sqrt(1 + n) / delta)
        expected = 0.25 + math.sqrt((1 + n) / n**2 * (1 + 2 * log)) / 2
        assert core.probe_ucbspec(0.25, n, t, arms, delta) == pytest.approx(expected, rel=1e-14)
    assert core.probe_ucbspec(0.5, 5e-324, 8, 2, 0.1) == math.inf  # discounted to almost nothing
    for delta in (0.1, 3.0, 1e9, -1.0, 0.0):  # the merge of pending pulls depends on it
        scores = [core.probe_ucbspec(0.5, n, 1, 2, delta) for n in (1, 2, 3, 5, 9, 1000)]
        assert all(a >= b for a, b in itertools.pairwise(scores)), (delta, scores)


def test_throughput(core):
    tokens, cost = doubles(9, 9, 6, 5), doubles(9, 9, 2, 3)
    rate = core.probe_token_rate(tokens.ctypes.data, cost.ctypes.data, 2, 1)
    assert rate == 11 / 5
    assert core.probe_token_rate(tokens.ctypes.data, doubles(0, 0).ctypes.data, 2, 0) == 1.0
    # 1/2 + (6 - 4.4) / (2 * 5 * 4)
    assert core.probe_throughput_mean(4, 6, 2, rate, 4) == pytest.approx(0.54)
    assert core.probe_throughput_mean(0, 0, 0, rate, 4) == 0.0
    assert core.probe_throughput_mean(1, 99, 1, rate, 4) == 1.0
    assert core.probe_throughput_mean(1, 1, 99, rate, 4) == 0.0


def test_rewards(core):
    simple, blend, throughput = 0, 1, 2
    assert core.probe_reward(simple, 2, 4, 8, 0.5) == 0.25
    assert core.probe_reward(blend, 2, 4, 8, 0.5) == 0.5 * 0.25 + 0.5 * 0.5
    assert core.probe_reward(blend, 2, 4, 8, 0.25) == 0.25 * 0.25 + 0.75 * 0.5
    assert core.probe_reward(blend, 0, 0, 8, 0.5) == 0.0
    assert core.probe_reward(throughput, 2, 4, 8, 0.5) == 0.0  # tokens and cost say it all


def test_fixed_arm_never_overflows(core):
    assert [core.probe_fixed_arm(x) for x in (0.0, 3.0, -1.0, 1e300, math.nan)] == [
        0,
        3,
        -1,
        -1,
        -1,
    ]
