"""csrc/core: sampling steps, stop rules, acceptance and bandits against hand-made numbers."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
from helpers import core_probe
from helpers.core_probe import doubles


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return core_probe.load(tmp_path_factory.mktemp("core"))


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
    ("temperature", "top_k", "top_p", "rule", "expected"),
    [
        (0.5, 3, 0.25, 0, (1, 0, 0.5, 3, 0.25, 1)),
        (1.0, 0, 1.0, 0, (1, 0, 1.0, 0, 1.0, 0)),
        (1.0, 10, 1.5, 0, (1, 0, 1.0, 0, 1.0, 0)),  # top_k = V and top_p > 1 are off
        (1.0, 9, -1.0, 0, (1, 0, 1.0, 9, -1.0, 1)),
        (1.0, -2, math.nan, 0, (1, 0, 1.0, 0, 1.0, 0)),
        (0.0, 3, 0.5, 0, (1, 1, 1.0, 0, 1.0, 0)),
        (9e-6, 0, 1.0, 0, (1, 1, 1.0, 0, 1.0, 0)),
        (-0.1, 0, 1.0, 0, (0, 0, 1.0, 0, 1.0, 0)),
        (math.nan, 0, 1.0, 0, (0, 0, 1.0, 0, 1.0, 0)),
        (math.nan, 3, 0.5, 3, (1, 1, 1.0, 0, 1.0, 0)),  # greedy looks at none of them
    ],
)
def test_sampling_parameters(core, temperature, top_k, top_p, rule, expected):
    out = np.zeros(6)
    core.probe_row_sampling(temperature, top_k, top_p, rule, 10, out.ctypes.data)
    assert tuple(out) == expected


# ---- stop rules --------------------------------------------------------------------------------

MAX_CONFIDENCE, SVIP, SVIP_DIFFERENCE, LOGIT_MARGIN, ADAEDL = 1, 2, 3, 4, 5


def stops(core, kind, param, memory=(), arm=1, entropy=(0.0, 0.0), top=(1.0, 0.0), slot=1):
    """The verdict on ``slot`` of two slots with these entropies and this top-2 pair."""
    stats = np.zeros((2, 8), dtype=np.float32)
    stats[:, 1] = entropy
    stats[:, 2:4] = top
    params, memories = np.zeros(4, dtype=np.float32), np.zeros(4, dtype=np.float32)
    params[: len(param)], memories[: len(memory)] = param, memory
    return bool(core.probe_stops(
        kind, params.ctypes.data, memories.ctypes.data, arm, slot, stats.ctypes.data
    ))  # fmt: skip


def test_stop_rules_on_both_sides_of_their_thresholds(core):
    assert stops(core, MAX_CONFIDENCE, [0.5], top=(0.49, 0.1))
    assert not stops(core, MAX_CONFIDENCE, [0.5], top=(0.5, 0.1))  # strict
    assert stops(core, SVIP, [0.5], entropy=(0, 0.26))
    assert not stops(core, SVIP, [0.5], entropy=(0, 0.25))
    assert stops(core, SVIP_DIFFERENCE, [0.25], entropy=(0.25, 1.0))  # 1 - 0.5 > 0.25
    assert not stops(core, SVIP_DIFFERENCE, [0.5], entropy=(0.25, 1.0))
    assert not stops(core, SVIP_DIFFERENCE, [-9.0], entropy=(0.25, 1.0), slot=0)
    assert stops(core, LOGIT_MARGIN, [0.25], top=(0.5, 0.375))
    assert not stops(core, LOGIT_MARGIN, [0.125], top=(0.5, 0.375))
    assert stops(core, ADAEDL, [0.25], memory=[0.51], entropy=(0, 1.0))  # 1 - 0.5 < 0.51
    assert not stops(core, ADAEDL, [0.25], memory=[0.5], entropy=(0, 1.0))
    assert not stops(core, ADAEDL, [0.25], memory=[0.9], entropy=(0, -1e-9))


def test_fixed_length_and_arms_outside_the_table(core):
    for slot, expected in ((1, False),):
        assert stops(core, SVIP, [0.0], arm=0, slot=slot, entropy=(9, 9)) == expected  # n = 3
    assert stops(core, 0, [2.0], arm=1, slot=1)
    assert not stops(core, 0, [2.5], arm=1, slot=1)
    for arm in (-1, 2, 1 << 30):
        assert not stops(core, SVIP, [0.0], arm=arm, entropy=(9, 9))
        assert not core.probe_stops_before(0, 0.0, arm)
    assert core.probe_stops_before(0, 0.0, 0)
    assert core.probe_stops_before(0, -1.0, 0)
    assert not core.probe_stops_before(0, 1.0, 0)
    assert not core.probe_stops_before(SVIP, 0.0, 0)


@pytest.mark.parametrize(
    ("memory", "accepted", "drafted", "expected"),
    [
        # AR = .5 * .8 + .5 * 1/4 = .525 < .9: lambda' = .51, lambda = .45 + .051
        ((0.5, 0.8), 1, 4, (0.501, 0.525)),
        # AR = .5 + .5 = 1, drafted 4 of 6 slots: lambda' = .49
        ((0.5, 1.0), 4, 4, (0.499, 1.0)),
        # the same with every slot drafted: lambda stays
        ((0.5, 1.0), 6, 6, (0.5, 1.0)),
    ],
)
def test_adaedl_memory(core, memory, accepted, drafted, expected):
    array = np.array([*memory, 7, 7], dtype=np.float32)
    core.probe_adaedl_update(array.ctypes.data, accepted, drafted, 6)
    np.testing.assert_allclose(array[:2], expected, rtol=1e-6)
    assert array[2:].tolist() == [7, 7]


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
