"""The joint law over consecutive rounds where stop rules learn from them, with the real streams.

What a rule remembers depends on a replica's own earlier noise, and decides how much it drafts: the
law must be the target's all the same (as in test_law_chi2.py, whose chains these are).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.chain import Chain
from helpers.chi2 import p_value
from helpers.law import columns
from helpers.mutants import Reference
from helpers.oracle import markov
from helpers.raw import Call, caller, caller_of
from test_law_chi2 import (
    CASES,
    DRAFT,
    MUTANT_REPLICAS,
    REPLICAS,
    RULES,
    START,
    TARGET,
    THRESHOLD,
    TOKENS,
    WRONG,
    keys,
    target_tables,
)

from tapout_kernels import StopRules

K = 2
PROMPTS = 4
LEARNING = StopRules(
    ("gammatune", {"initial_length": 1, "delta": 1, "eta": 0.5}),
    ("gammatune_plus", {"initial_length": 1, "delta": 1, "eta": 0.5, "threshold": 0.35}),
    ("heuristic", {"initial_length": 1}),
    ("hysteresis", {"high": 1.15, "low": 1.05, "alpha": 0.5, "probe_every": 2}),
    "adasd_entropy", "predicted_length",
    ("adl", {"delta": 1, "shortest": 1, "longest": 2}),
    ("adaedl", {"gamma": 0.2, "initial_threshold": 0.5}),
)  # fmt: skip
PREDICTION = torch.tensor([0.0, 1.0, 2.0, 1.4, 0.5])  # by the last token


def chain(call: Call, batch: int, rules: StopRules, case: str, rule: str, **learner) -> Chain:
    sides = CASES[case]
    told = PREDICTION if "predicted_length" in rules.names else None
    return Chain(
        call, torch.tensor(TARGET), torch.tensor(DRAFT), rules, batch, K, RULES[rule],
        sampling=columns([sides.target] * batch), draft_sampling=columns([sides.draft] * batch),
        learner=learner, prediction=told,
    )  # fmt: skip


def learning_p_value(call: Call, batch: int, rule: str, case: str, level: str) -> float:
    """The last of some prompts of three tokens, all under one bandit and one memory."""
    run = chain(call, batch, LEARNING, case, rule, level=level, policy="thompson_gaussian")
    for ordinal in range(PROMPTS):
        tokens = run.prompt(keys(batch, 500 + ordinal), START, TOKENS)
    lengths, arms = torch.stack(run.lengths), torch.stack(run.arms)
    assert all((lengths == n).any() for n in range(K + 1)), "the arms must differ in what they do"
    assert set(arms.unique().tolist()) == set(range(-1, len(LEARNING)))
    for name, memory in zip(LEARNING.names, run.state.memory.unbind(1), strict=True):
        assert len(memory.unique(dim=0)) > 1, f"{name}: noise must decide what is remembered"
    return p_value(tokens, markov(target_tables(CASES[case]), START, TOKENS))


@pytest.mark.interpreted_slow
@pytest.mark.parametrize(
    ("case", "level"),
    [("plain", "sequence"), ("filters", "token"),
     pytest.param("plain", "token", marks=pytest.mark.slow),
     pytest.param("filters", "sequence", marks=pytest.mark.slow)],
)  # fmt: skip
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_rules_that_learn_keep_the_target_law(backend, rule, case, level):
    found = learning_p_value(caller(backend), REPLICAS[backend], rule, case, level)
    assert found > THRESHOLD


@pytest.mark.parametrize("rule", RULES)
def test_wrong_noise_is_rejected_where_rules_learn(rule):
    call = caller_of(Reference(WRONG[rule]).ops)
    assert learning_p_value(call, 2 * MUTANT_REPLICAS, rule, "filters", "sequence") < THRESHOLD


def memory_p_values(call: Call, batch: int, arm: tuple, second_key: int) -> dict[str, float]:
    """Two prompts of two tokens: all that the first leaves behind is what its rule remembers."""
    run = chain(call, batch, StopRules(arm), "plain", "token", policy="fixed")
    first = run.prompt(keys(batch, 0), START, 2)
    remembered, rounds = run.state.memory[:, 0, 0].clone(), len(run.lengths)
    second = run.prompt(keys(batch, second_key), START, 2)
    begins = run.lengths[rounds]
    assert len(remembered.unique()) > 1, "noise must decide what is remembered"
    assert len(begins.unique()) > 1, "and that, how the second prompt begins"
    one, two = (markov(target_tables(), START, steps) for steps in (1, 2))
    pairs = torch.stack([first[:, 0], second[:, 0]], 1)
    return {
        "second prompt": p_value(second, two),
        "first tokens of both": p_value(pairs, np.multiply.outer(one, one)),
        "both prompts": p_value(torch.cat([first, second], 1), np.multiply.outer(two, two)),
    }


ALONE = [
    ("gammatune", {"initial_length": 1, "delta": 1, "eta": 0.5}),
    ("heuristic", {"initial_length": 1}),
    ("hysteresis", {"high": 0.7, "low": 0.3, "alpha": 0.5, "probe_every": 2}),
]


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("arm", ALONE, ids=[name for name, _ in ALONE])
@pytest.mark.sliced(4)
def test_two_prompts_of_one_memory_are_independent(backend, arm):
    found = memory_p_values(caller(backend), REPLICAS[backend], arm, second_key=1)
    assert min(found.values()) > THRESHOLD, found


@pytest.mark.parametrize("arm", ALONE, ids=[name for name, _ in ALONE])
def test_unmixed_keys_are_rejected_where_rules_learn(native, arm):
    """The same key for both prompts: the noise comes again, and together they say so."""
    found = memory_p_values(caller(native), 2 * MUTANT_REPLICAS, arm, second_key=0)
    found.pop("second prompt")
    assert max(found.values()) < THRESHOLD, found
