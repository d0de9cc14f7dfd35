"""csrc/core: stop rules and what they remember, against hand-made numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.learning import EPISODES, PRE_DRAFT

from tapout_kernels import StopRules
from tapout_kernels.reference.stop import KINDS

MAX_CONFIDENCE, SVIP, SVIP_DIFFERENCE, LOGIT_MARGIN, ADAEDL, SURVIVAL = 1, 2, 3, 4, 5, 6


def stops(core, kind, param, memory=(), arm=1, entropy=(0.0, 0.0), top=(1.0, 0.0), slot=1,
          top1=None, estimate=(0.0, 0.0)):  # fmt: skip
    """The verdict on ``slot`` of two slots with these entropies and this top-2 pair."""
    stats = np.zeros((2, 8), dtype=np.float32)
    stats[:, 1] = entropy
    stats[:, 2:4] = top
    stats[:, 7] = estimate
    if top1 is not None:
        stats[:, 2] = top1
    params, memories = np.zeros(4, dtype=np.float32), np.zeros(4, dtype=np.float32)
    params[: len(param)], memories[: len(memory)] = param, memory
    return bool(core.probe_stops(
        kind, params.ctypes.data, memories.ctypes.data, arm, slot, stats.ctypes.data
    ))  # fmt: skip


def stops_before(core, kind, param, memory=(), arm=0):
    """Whether a table of one arm refuses to draft."""
    params, memories = np.zeros(4, dtype=np.float32), np.zeros(4, dtype=np.float32)
    params[: len(param)], memories[: len(memory)] = param, memory
    return bool(core.probe_stops_before(kind, params.ctypes.data, memories.ctypes.data, arm))


def updated(core, kind, param, memory, accepted, drafted, slots, refused=False, entropies=()):
    """[4] memory after a round."""
    params, after = np.zeros(4, dtype=np.float32), np.array(memory, dtype=np.float32)
    params[: len(param)] = param
    stats = np.zeros((max(slots, len(entropies)), 8), dtype=np.float32)
    stats[: len(entropies), 1] = entropies
    core.probe_update_memory(
        kind, params.ctypes.data, after.ctypes.data, accepted, drafted, slots, refused,
        stats.ctypes.data,
    )  # fmt: skip
    return after


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


def test_survival_multiplies_what_was_estimated(core):
    assert stops(core, SURVIVAL, [0.376], top1=(0.5, 0.75))
    assert not stops(core, SURVIVAL, [0.375], top1=(0.5, 0.75))  # strict
    assert not stops(core, SURVIVAL, [0.5], top1=(0.5, 0.75), slot=0)
    # a slot with an estimate uses it, the others their top-1 probability
    assert not stops(core, SURVIVAL, [0.25], top1=(0.5, 0.1), estimate=(0, 0.5))
    assert stops(core, SURVIVAL, [0.251], top1=(0.5, 0.9), estimate=(0, 0.5))
    assert stops(core, SURVIVAL, [0.06], top1=(0.9, 0.9), estimate=(0.1, 0.5))


def test_an_estimate_of_nothing_is_not_mistaken_for_none(core):
    assert core.probe_stored_estimate(0.25) == 0.25
    for value in (0.0, -0.0, -1.0, math.nan):
        assert core.probe_stored_estimate(value) == 2.0**-126


def test_each_slot_has_its_own_arm(core):
    arms = np.array([[0, 1, 1], [1, 1, 0]], dtype=np.int32)  # arm 0 stops at 1, arm 1 at 3
    found = [[core.probe_slot_stops(arms.ctypes.data, 3, row, j) for j in range(3)]
             for row in range(2)]  # fmt: skip
    assert found == [[1, 0, 1], [0, 0, 1]]
    one = np.array([1, 0], dtype=np.int32)
    assert [core.probe_slot_stops(one.ctypes.data, 1, 0, j) for j in range(3)] == [0, 0, 1]
    assert [core.probe_slot_stops(one.ctypes.data, 1, 1, j) for j in range(3)] == [1, 1, 1]


def test_fixed_length_and_arms_outside_the_table(core):
    for slot, expected in ((1, False),):
        assert stops(core, SVIP, [0.0], arm=0, slot=slot, entropy=(9, 9)) == expected  # n = 3
    assert stops(core, 0, [2.0], arm=1, slot=1)
    assert not stops(core, 0, [2.5], arm=1, slot=1)
    for arm in (-1, 2, 1 << 30):
        assert not stops(core, SVIP, [0.0], arm=arm, entropy=(9, 9))
        assert not stops_before(core, 0, [0.0], arm=arm)
    assert stops_before(core, 0, [0.0])
    assert stops_before(core, 0, [-1.0])
    assert not stops_before(core, 0, [1.0])
    assert not stops_before(core, SVIP, [0.0])


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
    array = updated(core, ADAEDL, [], [*memory, 7, 7], accepted, drafted, 6)
    np.testing.assert_allclose(array[:2], expected, rtol=1e-6)
    assert array[2:].tolist() == [7, 7]


@pytest.mark.parametrize("name", EPISODES)
def test_memory_of_a_rule_by_hand(core, name):
    """The same numbers as for every backend (test_stop_memory.py)."""
    episode = EPISODES[name]
    kind, rules = KINDS[episode.rule], StopRules((episode.rule, episode.params))
    memory = rules.initial_memory[0].tolist()
    for round_ in episode.rounds:
        expected = [*round_.memory, *memory[len(round_.memory) :]]
        refused = round_.drafted == 0 and round_.reason == PRE_DRAFT
        memory = updated(
            core, kind, rules.param[0].tolist(), memory, round_.accepted, round_.drafted,
            episode.slots, refused, round_.entropies,
        ).tolist()  # fmt: skip
        assert memory == np.float32(expected).tolist()


def test_no_more_slots_are_judged_than_there_are(core):
    """A length beyond K: the entropies after slot K - 1 are another request's."""
    memory = updated(core, KINDS["adasd_entropy"], [], [0] * 4, 9, 9, 2, False, [1, 1, 100])
    assert memory.tolist() == [2, 1, 0, 0]


def test_rules_that_remember_stop_by_it(core):
    for name in ("gammatune", "gammatune_plus", "heuristic", "predicted_length", "adl"):
        kind = KINDS[name]
        assert stops(core, kind, [], memory=[2])
        assert not stops(core, kind, [], memory=[2.5])
        assert not stops(core, kind, [], memory=[math.nan])
    plus = KINDS["gammatune_plus"]
    assert stops(core, plus, [0, 0, 0, 0.5], memory=[9], top=(0.49, 0.1))
    assert not stops(core, plus, [0, 0, 0, 0.5], memory=[9], top=(0.5, 0.1))  # strict
    assert stops(core, KINDS["hysteresis"], [], memory=[0, 1])
    assert not stops(core, KINDS["hysteresis"], [], memory=[9, 0])
    adasd = KINDS["adasd_entropy"]
    assert stops(core, adasd, [], memory=[1, 0.5, 1, 1.5], entropy=(0, 1.01))
    assert not stops(core, adasd, [], memory=[1, 0.5, 1, 1.5], entropy=(0, 1.0))  # strict
    for unknown in ([0, 0.5, 1, 1.5], [1, 0.5, 0, 1.5]):
        assert not stops(core, adasd, [], memory=unknown, entropy=(0, 99))


def test_rules_that_remember_may_refuse_to_draft(core):
    every = [0, 0, 0, 3]
    idle = [stops_before(core, KINDS["hysteresis"], every, [0, 1, n]) for n in range(4)]
    assert idle == [True, True, False, False]
    assert not stops_before(core, KINDS["hysteresis"], every, [9, 0, 0])
    found = [stops_before(core, KINDS["predicted_length"], [], [n]) for n in (-1, 0, 1, math.nan)]
    assert found == [True, True, False, False]
    for name in ("gammatune", "gammatune_plus", "heuristic", "adl", "adasd_entropy"):
        assert not stops_before(core, KINDS[name], [], [0, 1, 0])


def test_predictions_are_rounded_and_clipped(core):
    values = [-9, 0.49, 0.5, 1.49, 1.5, 2.5, 3.6, math.inf]
    assert [core.probe_predicted_length(x, 3) for x in values] == [0, 0, 1, 1, 2, 3, 3, 3]
    assert math.isnan(core.probe_predicted_length(math.nan, 3))
