"""Two rounds under one bandit have exactly the target's law: integrated, not sampled.

The arm of the second round depends on how the first went, hence on its noise; the noise of the
second round has addresses of its own.  The bound is that of test_law_exact.py, twice.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import law, setups
from helpers.bandit_law import two_rounds
from helpers.mutants import Edit, Reference
from helpers.oracle import markov
from test_law_exact import EXACT, float64_reference, plain

from tapout_kernels import BanditState

STEPS = 4
# Earlier pulls of every arm, and parameters: such that one more reward decides the next arm.
POLICIES = {
    "ucb1": (1, {"exploration": 0.1}),
    "ucb_tuned": (4, {}),
    "thompson_gaussian": (1, {"sigma": 0.1}),
    "thompson_beta": (1, {}),
    "epsilon_greedy": (1, {"seed": 1}),
}


def bandit_of(policy: str, level: str, slots: int) -> BanditState:
    """Two arms are nearly equal, the others poor."""
    arms, (count, parameters) = len(setups.RULES), POLICIES[policy]
    bandit = BanditState.create(arms, 1, slots, level, policy, **parameters)
    mean = torch.full((arms,), 0.1, dtype=torch.float64)
    mean[3], mean[5] = 0.6, 0.55
    bandit.count.fill_(count)
    bandit.reward_sum.copy_(count * (mean if level == "sequence" else mean[:, None]))
    bandit.reward_sq.copy_(bandit.reward_sum**2 / count)
    return bandit


def two_rounds_error(reference: Reference, setup: law.Setup, policy: str, level: str) -> float:
    reference.set_chunk(2)
    bandit = bandit_of(policy, level, setup.slots)
    found, arms = two_rounds(reference, setup, bandit, STEPS)
    assert len(arms) > 1, "what the first round taught decides the second's arm"
    return float(np.abs(found - markov(setup.probs("target", 0), 0, STEPS)).max())


@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.sliced(4)
def test_two_rounds_under_one_bandit_are_exact(rule, policy, level):
    layout = law.Layout(token_level=level == "token")
    setup = plain(rule, "draft", -1, "smaller", target_filter="min_p", layout=layout)
    assert two_rounds_error(float64_reference(), setup, policy, level) <= 2 * EXACT


def test_a_biased_round_is_seen():
    wrong = Reference(Edit("accept.py", "(p_target - p_draft).clamp(min=0)", "p_target"))
    setup = plain("token", "draft", -1, "smaller")
    assert two_rounds_error(wrong, setup, "ucb1", "sequence") > 1e-3
