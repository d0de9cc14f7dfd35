"""The joint law of draft + stop + bandit + verify over consecutive rounds, with the real streams.

Each replica's arm and draft length depend on its own earlier noise.  Seeds are fixed, so a p-value
below 1e-6 is not bad luck: it is a bug.  Every test is shown to have power by a mutant of the
reference, or a wrong caller, that it must reject.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.chain import Chain
from helpers.chi2 import p_value
from helpers.device import few
from helpers.law import BLOCK, GUMBEL, TOKEN, Filter, columns, words
from helpers.mutants import Edit, Reference
from helpers.oracle import markov, processed
from helpers.raw import caller, caller_of

from tapout_kernels import StopRules, mix64
from tapout_kernels.draft_vocab import DraftVocab

VOCAB, START, TOKENS = 5, 0, 3
THRESHOLD = 1e-6
REPLICAS = {"reference": 1500, "cpu": 40000, "triton": few("triton", 40000, 400),
            "cuda": few("cuda", 40000, 400, emulated=400)}  # fmt: skip
MUTANT_REPLICAS = 1500
RULES = {"token": TOKEN, "block": BLOCK, "gumbel": GUMBEL}
GENERATOR = np.random.default_rng(7)
TARGET, DRAFT = GENERATOR.normal(size=(2, VOCAB, VOCAB)).astype(np.float32)
# A draft of 0 tokens or of 2: which one is used in the second prompt depends on how the first
# went, so noise that comes back would be conditioned on its own past.
ARMS_0_2 = StopRules(("fixed_length", {"n": 0}), ("fixed_length", {"n": 2}))
ALL_ARMS = StopRules(
    ("fixed_length", {"n": 0}), ("max_confidence", {"threshold": 0.4}),
    ("svip", {"threshold": 1.15}), ("svip_difference", {"threshold": 0.02}),
    ("logit_margin", {"threshold": 0.2}), ("survival", {"threshold": 0.35}),
    ("adaedl", {"gamma": 0.2, "initial_threshold": 0.5}), ("fixed_length", {"n": 2}),
)  # fmt: skip


class Case(NamedTuple):
    target: Filter = Filter()  # exact in float32
    draft: Filter = Filter()
    target_mask: np.ndarray | None = None  # [V, V] by the last token
    draft_mask: np.ndarray | None = None
    d2t: tuple[int, ...] | None = None


_DIAGONAL = ~np.eye(VOCAB, dtype=bool)
CASES = {
    "plain": Case(draft=Filter(temperature=1.5)),
    "filters": Case(Filter(0.75, 4, 0.9375), Filter(1.5, 3)),
    "masks": Case(
        Filter(min_p=0.125), Filter(temperature=1.25), _DIAGONAL, _DIAGONAL[:, [1, 2, 3, 4, 0]],
        (4, 2, 0, 3),
    ),
}  # fmt: skip


def keys(batch: int, ordinal: int, mix: Callable[[int, int], int] = mix64) -> torch.Tensor:
    """User seed of replica b is b; the same for every prompt."""
    return torch.tensor([mix(b, ordinal) for b in range(batch)])


def target_tables(case: Case = CASES["plain"]) -> np.ndarray:
    masks = case.target_mask if case.target_mask is not None else [None] * VOCAB
    return np.stack([processed(z, *case.target, m) for z, m in zip(TARGET, masks, strict=True)])


def chain(
    call,
    batch: int,
    rules: StopRules,
    case: Case,
    rule: int = TOKEN,
    slots: int = 2,
    one_hot: bool = False,
    **learner: str,
) -> Chain:
    width = VOCAB if case.d2t is None else len(case.d2t)
    return Chain(
        call, torch.tensor(TARGET), torch.tensor(DRAFT[:, :width].copy()), rules, batch, slots,
        rule, sampling=columns([case.target] * batch), draft_sampling=columns([case.draft] * batch),
        target_mask=None if case.target_mask is None else words(case.target_mask),
        draft_mask=None if case.draft_mask is None else words(case.draft_mask),
        vocab=None if case.d2t is None else DraftVocab(torch.tensor(case.d2t, dtype=torch.int32)),
        learner=learner, one_hot=one_hot,
    )  # fmt: skip


# ---- rounds in a row -------------------------------------------------------------------------


def rounds_p_value(
    call, batch: int, rule: str = "token", case: str = "filters", ordinal: int = 0, **level: str
) -> float:
    """One prompt of three tokens under all arms: 125 cells."""
    run = chain(
        call, batch, ALL_ARMS, CASES[case], RULES[rule], policy="thompson_gaussian", **level
    )
    # A prompt before the one that is tested: arms have run and been rewarded.
    run.prompt(keys(batch, 100 * ordinal), START, TOKENS)
    tokens = run.prompt(keys(batch, 100 * ordinal + 99), START, TOKENS)
    lengths, arms = torch.stack(run.lengths), torch.stack(run.arms)
    assert all((lengths == n).any() for n in (0, 1, 2)), "the arms must differ in what they do"
    assert set(arms.unique().tolist()) == set(range(-1, len(ALL_ARMS)))
    return p_value(tokens, markov(target_tables(CASES[case]), START, TOKENS))


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_consecutive_rounds_have_the_target_law(backend, rule, case):
    assert rounds_p_value(caller(backend), REPLICAS[backend], rule, case) > THRESHOLD


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_consecutive_rounds_have_the_target_law_with_an_arm_for_each_slot(compiled, rule):
    found = rounds_p_value(caller(compiled), REPLICAS[compiled], rule, level="token")
    assert found > THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize("ordinal", range(1, 4))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rule", RULES)
def test_consecutive_rounds_have_the_target_law_on_more_seeds(compiled, rule, case, ordinal):
    replicas = few(compiled, 200_000, 400, emulated=400)
    assert rounds_p_value(caller(compiled), replicas, rule, case, ordinal) > THRESHOLD


# ---- two prompts in a row under one bandit ----------------------------------------------------


def two_prompts_p_values(
    call, batch: int, rule: str, level: str, mix: Callable[[int, int], int] = mix64
) -> dict[str, float]:
    """Both prompts begin alike, with one user seed and one bandit: their tokens are independent.

    Two tokens each: a prompt runs arm 0, then arm 1 with what is left, and whether its draft was
    accepted decides the arm the next prompt begins with.
    """
    run = chain(call, batch, ARMS_0_2, CASES["plain"], RULES[rule], level=level)
    first = run.prompt(keys(batch, 0, mix), START, 2)
    rounds = len(run.arms)
    second = run.prompt(keys(batch, 1, mix), START, 2)
    begins_with = run.arms[rounds].view(batch, -1)[:, 0]
    assert len(begins_with.unique()) == 2, "noise must decide the second prompt's first arm"
    one, two = (markov(target_tables(), START, steps) for steps in (1, 2))
    begins = torch.stack([first[:, 0], second[:, 0]], 1)
    return {
        "first prompt": p_value(first, two),
        "second prompt": p_value(second, two),
        "first tokens of both": p_value(begins, np.multiply.outer(one, one)),
        "both prompts": p_value(torch.cat([first, second], 1), np.multiply.outer(two, two)),
    }


LEVELS = ("sequence", "token")


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sliced(4)
def test_two_prompts_under_one_bandit_are_independent(backend, rule, level):
    found = two_prompts_p_values(caller(backend), REPLICAS[backend], rule, level)
    assert min(found.values()) > THRESHOLD, found


# ---- power: each of these wrong programs must be rejected by the tests above, on any backend ----


@pytest.mark.parametrize("level", LEVELS)
def test_unmixed_keys_are_rejected(native, level):
    """The same key for both prompts, rounds restarting at 0: noise conditioned on its past.

    The first prompt alone is sound; the second, even alone, is not: its arm depends on its noise.
    """
    found = two_prompts_p_values(
        caller(native), 2 * MUTANT_REPLICAS, "token", level, lambda seed, ordinal: seed
    )
    assert found.pop("first prompt") > THRESHOLD, found
    assert max(found.values()) < THRESHOLD, found


WRONG = {
    "token": Edit("decide.py", "self.round, RESIDUAL)", "self.round, ACCEPT)"),
    "block": Edit("decide.py", "sample_index(weights, noise.residual(decision.accepted))",
                  "sample_index(weights, noise.accept(1)[:, 0])"),
    "gumbel": Edit("decide.py", "position = noise.position", "position = 0 * noise.position"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_wrong_noise_is_rejected(rule):
    """Noise used twice; gumbel: positions that do not advance.  More: tests/test_mutants.py."""
    call = caller_of(Reference(WRONG[rule]).ops)
    assert rounds_p_value(call, MUTANT_REPLICAS, rule) < THRESHOLD
