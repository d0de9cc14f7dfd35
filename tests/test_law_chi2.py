"""The joint law of draft + stop + bandit + verify over consecutive rounds, with the real streams.

Each replica's arm and draft length depend on its own earlier noise.  Seeds are fixed, so a p-value
below 1e-6 is not bad luck: it is a bug.  Every test is shown to have power by a mutant of the
reference that it must reject.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.chain import Chain
from helpers.chi2 import p_value
from helpers.mutants import Edit, Reference
from helpers.oracle import markov, processed
from helpers.raw import caller, caller_of

from tapout_kernels import StopRules, mix64

VOCAB, START, TOKENS = 5, 0, 3
THRESHOLD = 1e-6
REPLICAS = {"reference": 1500, "cpu": 40000}
MUTANT_REPLICAS = 1500
GENERATOR = np.random.default_rng(7)
TARGET, DRAFT = GENERATOR.normal(size=(2, VOCAB, VOCAB)).astype(np.float32)
# A draft of 0 tokens or of 2: which one is used in the second prompt depends on how the first
# went, so noise that comes back would be conditioned on its own past.
ARMS_0_2 = StopRules(("fixed_length", {"n": 0}), ("fixed_length", {"n": 2}))
ALL_ARMS = StopRules(
    ("fixed_length", {"n": 0}), ("max_confidence", {"threshold": 0.4}),
    ("svip", {"threshold": 1.15}), ("svip_difference", {"threshold": 0.02}),
    ("logit_margin", {"threshold": 0.2}),
    ("adaedl", {"gamma": 0.2, "initial_threshold": 0.5}), ("fixed_length", {"n": 2}),
)  # fmt: skip


def chain(call, batch: int, rules: StopRules, **fields) -> Chain:
    return Chain(call, torch.tensor(TARGET), torch.tensor(DRAFT), rules, batch, **fields)


def keys(batch: int, ordinal: int, mixed: bool = True) -> torch.Tensor:
    """User seed of replica b is b; the same for every prompt."""
    return torch.tensor([mix64(b, ordinal) if mixed else b for b in range(batch)])


def target_tables(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    return np.stack([processed(row, temperature, top_k, top_p) for row in TARGET])


# ---- rounds in a row -------------------------------------------------------------------------

SAMPLINGS = {
    "plain": {},
    "filters": {"temperature": 0.75, "top_k": 4, "top_p": 0.9375},  # exact in float32
}


def columns(batch: int, temperature=None, top_k=None, top_p=None) -> dict:
    given = {"temperature": (temperature, torch.float32), "top_k": (top_k, torch.int32)}
    given["top_p"] = (top_p, torch.float32)
    return {
        name: None if value is None else torch.full((batch,), value, dtype=dtype)
        for name, (value, dtype) in given.items()
    }


def rounds_p_value(call, batch: int, sampling: str = "plain", ordinal: int = 0) -> float:
    """One prompt of three tokens under all arms: 125 cells."""
    run = chain(
        call, batch, ALL_ARMS, sampling=columns(batch, **SAMPLINGS[sampling]),
        draft_sampling=columns(batch, temperature=1.5, top_k=3),
    )  # fmt: skip
    # Three prompts before the one that is tested: the arms have run and been rewarded.
    for warm in range(3):
        run.prompt(keys(batch, 100 * ordinal + warm), START, TOKENS)
    tokens = run.prompt(keys(batch, 100 * ordinal + 99), START, TOKENS)
    lengths = torch.stack(run.lengths)
    assert all((lengths == n).any() for n in (0, 1, 2)), "the arms must differ in what they do"
    return p_value(tokens, markov(target_tables(**SAMPLINGS[sampling]), START, TOKENS))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_consecutive_rounds_have_the_target_law(backend, sampling):
    assert rounds_p_value(caller(backend), REPLICAS[backend], sampling) > THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize("ordinal", range(1, 4))
def test_consecutive_rounds_have_the_target_law_on_more_seeds(compiled, ordinal):
    assert rounds_p_value(caller(compiled), 200_000, "filters", ordinal) > THRESHOLD


# ---- two prompts in a row under one bandit ----------------------------------------------------


def two_prompts_p_values(call, batch: int, mixed: bool = True) -> dict[str, float]:
    """Both prompts begin alike, with one user seed and one bandit: their tokens are independent.

    Two tokens each: a prompt runs arm 0, then arm 1 with what is left, and whether its draft was
    accepted decides the arm the next prompt begins with.
    """
    run = chain(call, batch, ARMS_0_2)
    first = run.prompt(keys(batch, 0, mixed), START, 2)
    rounds = len(run.arms)
    second = run.prompt(keys(batch, 1, mixed), START, 2)
    assert len(run.arms[rounds].unique()) == 2, "noise must decide the second prompt's first arm"
    one, two = (markov(target_tables(), START, steps) for steps in (1, 2))
    begins = torch.stack([first[:, 0], second[:, 0]], 1)
    return {
        "first prompt": p_value(first, two),
        "second prompt": p_value(second, two),
        "first tokens of both": p_value(begins, np.multiply.outer(one, one)),
        "both prompts": p_value(torch.cat([first, second], 1), np.multiply.outer(two, two)),
    }


def test_two_prompts_under_one_bandit_are_independent(backend):
    found = two_prompts_p_values(caller(backend), REPLICAS[backend])
    assert min(found.values()) > THRESHOLD, found


# ---- power: each of these wrong programs must be rejected by the tests above -------------------


def test_unmixed_keys_are_rejected(backend):
    """The same key for both prompts, rounds restarting at 0: noise conditioned on its past.

    The first prompt alone is sound, the second even alone is not: its arm depends on its noise.
    """
    found = two_prompts_p_values(caller(backend), MUTANT_REPLICAS, mixed=False)
    assert found.pop("first prompt") > THRESHOLD, found
    assert max(found.values()) < THRESHOLD, found


def test_residual_noise_shared_with_acceptance_is_rejected():
    """More wrong streams: tests/test_mutants.py."""
    edit = Edit("verify.py", "accepted, round, RESIDUAL)", "accepted, round, ACCEPT)")
    assert rounds_p_value(caller_of(Reference(edit).ops), MUTANT_REPLICAS) < THRESHOLD
