"""Deliberately wrong references: each must be caught by a named check, or the checks are blind.

A mutant is a copy of the reference with one line replaced (helpers/mutants.py); if that line is no
longer in the source the test fails, so the list cannot rot.  The checks are the ones the shipped
reference passes: the exact law, the chi-squared law, and known answers.  Unmixed keys live in the
caller, not in the reference: test_law_chi2.py::test_unmixed_keys_are_rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import law, setups
from helpers.mutants import Edit, Reference
from helpers.raw import caller_of
from test_law_chi2 import MUTANT_REPLICAS, THRESHOLD, rounds_p_value

LAW_BOUND = 2 * 3 * 2.0**-22  # test_law_exact.py: float32 statistics, K <= 3


def exact_law(**source: object) -> Callable[[Reference], bool]:
    """Passes if the round's law is the target's (tests/test_law_exact.py)."""

    def check(reference: Reference) -> bool:
        reference.set_chunk(2)
        setup = setups.product(4, 2, arms=(-1, 1, 3, 6), **source)
        try:
            found, _ = law.round_law(reference, setup)
        except AssertionError:  # an outcome that is no monotone function of its uniform
            return False
        return np.abs(found - law.target_law(setup)).max() <= LAW_BOUND

    check.__name__ = "exact law"
    return check


def joint_law(reference: Reference) -> bool:
    """Passes if consecutive rounds have the target's law (tests/test_law_chi2.py)."""
    return rounds_p_value(caller_of(reference.ops), MUTANT_REPLICAS) > THRESHOLD


def zero_coin(reference: Reference) -> bool:
    """Passes if the smallest uniform accepts no token of target probability 0."""
    zero = torch.zeros(1, dtype=torch.int64)
    u = reference.module("rng").uniform_from_words(zero, zero)
    accepted = reference.module("accept").accept(u, torch.ones(1).double(), torch.zeros(1).double())
    return bool(u > 0) and not bool(accepted)


def unproposed_slots(reference: Reference) -> bool:
    """Passes if K = 3 slots with one draft of p_target = 1 accept it and add a bonus token."""
    args = {
        "target_logits": torch.tensor([0.0, -torch.inf]).expand(1, 4, 2), "temperature": None,
        "top_k": None, "top_p": None, "seed": torch.tensor([3]),
        "draft_tokens": torch.tensor([[0, -1, -1]]),
        "length": torch.tensor([1], dtype=torch.int32), "live": torch.tensor([True]),
        "round": torch.tensor([0]), "draft_logits": None, "stats": torch.zeros(1, 3, 8), "rule": 0,
        "position": torch.tensor([0]), "tokens": torch.zeros(1, 4, dtype=torch.int64),
        "num_accepted": torch.zeros(1, dtype=torch.int32), "accept_prob": torch.zeros(1, 3),
        "num_emitted": torch.zeros(1, dtype=torch.int32), "last_token": torch.tensor([0]),
        "status": torch.zeros(1, dtype=torch.int32),
    }  # fmt: skip
    reference.ops["verify"](**args)
    return (args["tokens"].tolist(), args["status"].item(), args["accept_prob"].tolist()) == (
        [[0, 0, -1, -1]], 0, [[1.0, -1.0, -1.0]],
    )  # fmt: skip


class Mutant(NamedTuple):
    edits: tuple[Edit, ...]
    check: Callable[[Reference], bool]


MUTANTS = {
    "shared noise domain": Mutant(
        (Edit("verify.py", "round[:, None], ACCEPT)", "round[:, None], 0)"),), joint_law
    ),
    "address without round": Mutant(
        (Edit("rng.py", "        round & _MASK32,", "        round & 0,"),), joint_law
    ),
    "residual subtracts only the drafted token": Mutant(
        (Edit("verify.py", "[rows, slot][:, None], point, full)",
              "[rows, slot][:, None], point, torch.where(point > 0, full, 0.0))"),), exact_law(),
    ),
    "last vocabulary chunk skipped": Mutant(
        (Edit("sampling.py", "    return padded.view(rows, -1, CHUNK)",
              "    return padded.view(rows, -1, CHUNK)[:, :-1]"),), exact_law(),
    ),
    "top-k cutoff off by one": Mutant(
        (Edit("stats.py", "(k < z.shape[-1]), kept - 1, last)",
              "(k < z.shape[-1]), (kept - 2).clamp(min=0), last)"),), exact_law(),
    ),
    "top-p cutoff off by one": Mutant(
        (Edit("stats.py", "torch.minimum(reached.sum(-1, keepdim=True), last)",
              "torch.minimum(reached.sum(-1, keepdim=True) + 1, last)"),), exact_law(),
    ),
    "unproposed slot counted as rejected": Mutant(
        (Edit("verify.py", "drafted = accepted < length", "drafted = accepted < slots"),),
        unproposed_slots,
    ),
    "q taken before top-k": Mutant(
        (Edit("stats.py", "_token_logprob(rows, token, log_s), rows.cutoff,",
              "_token_logprob(rows, token, s.log()), rows.cutoff,"),), exact_law(),
    ),
    "q spread over what top-k cut": Mutant(
        (Edit("verify.py", "kept = (z >= row[:, CUTOFF, None]) & ~z.isneginf()",
              "kept = ~z.isneginf()"),), exact_law(),
    ),
    "a uniform that can be 0, with <=": Mutant(
        (Edit("rng.py", "(bits.double() + 0.5)", "bits.double()"),
         Edit("accept.py", "u * p_draft < p_target", "u * p_draft <= p_target")), zero_coin,
    ),
    "the draft's own probability forgotten": Mutant(
        (Edit("verify.py", "    return drawn\n", "    return torch.ones_like(drawn)\n"),),
        exact_law(),
    ),
    "residual without its clamp": Mutant(
        (Edit("accept.py", "(p_target - p_draft).clamp(min=0)", "(p_target - p_draft).abs()"),),
        exact_law(),
    ),
    "one-hot residual keeps the drafted token": Mutant(
        (Edit("verify.py", "    if draft_logits is None or rule == GREEDY:\n        return point",
              "    if draft_logits is None or rule == GREEDY:\n        return point * 0"),),
        exact_law(source="one_hot"),
    ),
    "temperature of the draft ignored in the residual": Mutant(
        (Edit("verify.py", "(z - z_token) / t[:, None]", "(z - z_token)"),), exact_law(),
    ),
    "bonus from the row before": Mutant(
        (Edit("verify.py", "weights = p_target[torch.arange(batch, device=device), accepted]",
              "weights = p_target[torch.arange(batch, device=device), end_slot[:, 0]]"),),
        exact_law(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name):
    mutant = MUTANTS[name]
    assert not mutant.check(Reference(*mutant.edits)), f"{mutant.check.__name__} is blind to {name}"
    print(f"killed: {name} (by {mutant.check.__name__})")


CHECKS = (exact_law(), exact_law(source="one_hot"), joint_law, zero_coin, unproposed_slots)


@pytest.mark.parametrize("number", range(len(CHECKS)))
def test_the_shipped_reference_survives(number):
    """A check that fails everything would kill every mutant too."""
    assert CHECKS[number](Reference())


def test_a_mutant_whose_line_is_gone_is_refused():
    with pytest.raises(AssertionError, match="once, found it 0 times"):
        Reference(Edit("accept.py", "a line that is not there", ""))
