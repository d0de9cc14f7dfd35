"""The reference's round has exactly the target's law: integrated, not sampled.

Derivation of the bounds.  Bisection on the 2**-52 lattice gives each measure to 2**-52, and a round
multiplies at most 2K+1 of them: with float64 statistics the law must agree to rounding, and 1e-9
is asserted.  The shipped operators keep ``token_logprob`` in float32, |logprob| <= 8 here, so
p_draft is off by at most 2**-22 relative (half an ulp of [4, 8)); the error of the law is at most
the sum over slots of p_draft(x) 2**-22 twice (acceptance and residual), which is 2 K 2**-22.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import law, setups
from helpers.mutants import Edit, Reference

EXACT = 1e-9
FLOAT64_STATS = Edit(
    "stats.py",
    "return torch.cat([stats, t[:, None], torch.zeros_like(t)[:, None]], -1).float()",
    "return torch.cat([stats, t[:, None], torch.zeros_like(t)[:, None]], -1)",
)
FLOAT64_SLOT = Edit(
    "proposal_reset.py",
    "    stats.zero_()\n",
    "    stats.data = torch.zeros_like(stats).double()\n",
)
SOURCES = (
    {"source": "draft"},
    {"source": "draft", "draft_rule": law.GREEDY},
    {"source": "draft", "rule": law.GREEDY},
    {"source": "draft", "draft_rule": law.GREEDY, "rule": law.GREEDY},
    {"source": "loaded"},
    {"source": "loaded", "rule": law.GREEDY},
    {"source": "one_hot"},
    {"source": "one_hot", "rule": law.GREEDY},
)
SHAPES = ((3, 3), (5, 2))  # V, K


def name(source: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in source.items())


def law_error(reference: Reference, setup: law.Setup) -> float:
    reference.set_chunk(2)  # five ids cross two chunk borders
    found, _ = law.round_law(reference, setup)
    return float(np.abs(found - law.target_law(setup)).max())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"v{s[0]}k{s[1]}")
@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_law_is_exact(source, shape):
    setup = setups.product(*shape, **source)
    assert law_error(Reference(FLOAT64_STATS, FLOAT64_SLOT), setup) <= EXACT


@pytest.mark.parametrize("source", SOURCES[::4], ids=name)
def test_law_of_the_shipped_operators_is_exact_up_to_float32_statistics(source):
    setup = setups.product(5, 2, seed=1, arms=(-1, 2, 6), **source)
    assert law_error(Reference(), setup) <= 2 * setup.slots * 2.0**-22


def test_law_is_exact_with_chunks_of_1024():
    setup = setups.product(3, 2, seed=2, arms=(3,))
    found, _ = law.round_law(Reference(FLOAT64_STATS, FLOAT64_SLOT), setup)
    assert np.abs(found - law.target_law(setup)).max() <= EXACT


def test_every_stop_rule_is_exercised():
    """The axis changes what happens: each rule stops some paths early and lets others go on."""
    early, full = set(), set()
    for shape in SHAPES:
        setup = setups.product(*shape)
        reference = Reference()
        reference.set_chunk(8)
        found = law.Round(reference, setup)
        found.draft()
        arm = torch.tensor(setup.arms)[found.config]
        length = found.proposal.length
        early |= set(arm[(found.weight > 0) & (length < setup.slots)].tolist())
        full |= set(arm[(found.weight > 0) & (length == setup.slots)].tolist())
    rules = set(range(len(setups.RULES)))
    assert early == rules, "-1 is no rule, which never stops early"
    assert full == rules - {0} | {-1}, "arm 0 drafts nothing"


def test_addresses_of_one_round_are_distinct():
    """What makes the law a product: each uniform of a round has an address of its own.

    DRAFT and ACCEPT use one slot per draft; RESIDUAL the deciding slot, once.
    """
    setup = setups.product(3, 3, arms=(-1,))
    reference = Reference()
    reference.set_chunk(8)
    _, found = law.round_law(reference, setup)
    slots = setup.slots
    expected = {(domain, slot) for domain in (law.DRAFT, law.ACCEPT) for slot in range(slots)}
    expected |= {(law.RESIDUAL, slot) for slot in range(slots + 1)}
    assert found.addresses == expected
