"""The reference's round has exactly the target's law: integrated, not sampled.

Every verification rule x source of the draft x stop rule, with every value of the other axes, and
every pair of those (helpers/setups.py): filters of either side, token masks, vocabularies of
different size, arms per slot, state rows, ragged targets.

Derivation of the bounds.  Bisection gives each measure to 2**-37, and a probability of the law is
a sum of products of at most 2K+1 of them: with float64 statistics it must agree to rounding, and
1e-9 is asserted.  The shipped operators keep ``token_logprob`` in float32, |logprob| < 8 here
(checked), so p_draft of a whole slot is off by a factor within 1 +- e, e = 2**-22 (half an ulp of
[4, 8)).  ``token``: a slot's law uses it twice (acceptance and residual), which is 2 K e.
``block``: with d_i = S_i + 1 - w_i, level i emits at rate (g_i/d_i) [w_i p_target - p_draft]_+,
g_i the probability that no longer level is accepted, which is d_i where p_draft is exact.  The sum
of that residual is at most d_i, so an error of g_i - d_i passes on undivided, and it gains at most
2 e per level: each of K+1 ends is off by at most 2 K e, all by 2 K (K+1) e.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import law, setups
from helpers.integrate import ACCEPT, DRAFT, RESIDUAL
from helpers.mutants import Edit, Reference
from helpers.pairs import all_pairs, pairs_of
from helpers.round_law import law_error, round_law, target_law

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
COVERING = setups.covering()
PLAIN = {"target_filter": "none", "draft_filter": "none", "mask": "none"}


def float64_reference() -> Reference:
    return Reference(FLOAT64_STATS, FLOAT64_SLOT)


def plain(
    rule: str, source: str, stop: int, vocab: str = "same", draft_rule: int = law.TOKEN, **axes: str
) -> law.Setup:
    """One configuration, without filters and masks but for those named."""
    row = {"cell": (rule, source, stop), "vocab": vocab, "layout": law.Layout(), **PLAIN}
    return replace(setups.setup_of([{**row, **axes}]), draft_rule=draft_rule)


@pytest.mark.parametrize("part", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2, 3))])
@pytest.mark.parametrize("source", setups.SOURCES)
@pytest.mark.parametrize("rule", setups.VERIFY_RULES)
def test_law_is_exact(rule, source, part):
    rows = [row for row in COVERING if row["cell"][:2] == (rule, source)]
    launches = setups.launches(rows)[part::4]
    reference = float64_reference()
    assert launches
    for launch in launches:
        error = law_error(reference, setups.setup_of(launch))
        assert error <= EXACT, (error, launch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_law_is_exact_on_more_chains(seed):
    reference = float64_reference()
    for launch in setups.launches(setups.covering(seed)):
        error = law_error(reference, setups.setup_of(launch, seed))
        assert error <= EXACT, (error, launch)


@pytest.mark.parametrize("rule", setups.VERIFY_RULES)
def test_law_is_exact_with_greedy_drafts(rule):
    """``draft_step(rule="greedy")`` drafts the argmax, whatever the temperature says."""
    setup = plain(rule, "draft", 2, draft_filter="temperature", draft_rule=law.GREEDY)
    paths = round_law(float64_reference(), setup)[1]
    assert sorted(paths.weight.tolist())[-2:] == [0.0, 1.0]
    assert law_error(float64_reference(), setup) <= EXACT


@pytest.mark.parametrize("source", ["draft", "loaded"])
@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.sliced(3)
def test_law_of_the_shipped_operators_is_exact_up_to_float32_statistics(rule, source):
    rows = [row for row in COVERING if row["cell"][:2] == (rule, source)]
    ends = 1 if rule == "token" else 3  # K <= 2 below
    for launch in setups.launches([row for row in rows if row["vocab"] == "same"])[:4]:
        setup = setups.setup_of(launch)
        reference = Reference()
        reference.set_chunk(2)
        found, paths = round_law(reference, setup)
        logprob = paths.proposal.stats[..., 4]
        drawn = torch.arange(setup.slots) < paths.proposal.length[:, None]
        assert (logprob[drawn & (paths.weight > 0)[:, None]] > -8).all()
        bound = 2 * setup.slots * ends * 2.0**-22
        assert np.abs(found - target_law(setup)).max() <= bound, launch


def test_law_is_exact_where_a_mask_leaves_the_draft_nothing():
    """A draft row without an allowed id ends the draft: that says nothing about a token."""
    setup = plain("block", "draft", -1, mask="draft")
    mask = setup.configs[0].draft_mask
    mask[2] = False
    found, paths = round_law(float64_reference(), setup)
    assert (paths.proposal.stop_reason[paths.weight > 0] == 5).any()
    assert np.abs(found - target_law(setup)).max() <= EXACT


def test_law_is_exact_with_chunks_of_1024():
    found, _ = round_law(float64_reference(), setup := plain("token", "draft", 3))
    assert np.abs(found - target_law(setup)).max() <= EXACT


# ---- the axes ---------------------------------------------------------------------------------


def test_every_pair_of_values_is_covered():
    seen = {
        frozenset([(a, row[a]), (b, row[b])])
        for row in COVERING for a in row for b in row if a != b
    }  # fmt: skip
    assert set(pairs_of(setups.AXES)) <= seen
    assert {row["cell"] for row in COVERING} == set(setups.CELLS), "the product, in full"
    pairs = {(a, b) for layout in setups.LAYOUTS for a in enumerate(layout)
             for b in enumerate(layout)}  # fmt: skip
    assert len([1 for (i, _), (j, _) in pairs if i < j]) == 3 * 4, "an orthogonal array"


def test_all_pairs_is_small_and_complete():
    """Four axes of three values need nine rows at least; a product has 81."""
    axes = dict.fromkeys("abcd", (0, 1, 2))
    rows = all_pairs(axes)
    found = {frozenset([(a, row[a]), (b, row[b])]) for row in rows for a in row for b in row}
    assert set(pairs_of(axes)) <= found
    assert 9 <= len(rows) <= 15
    assert all(list(row) == list("abcd") for row in rows)


def test_every_value_of_an_axis_changes_the_law():
    """No filter and no mask is a no-op on either side, and each side's differs from the other's."""
    for side in ("target", "draft"):
        base = plain("token", "draft", -1).probs(side, 0)
        for name in list(setups.FILTERS[side])[1:]:
            found = plain("token", "draft", -1, **{f"{side}_filter": name}).probs(side, 0)
            assert np.abs(found - base).max() > 0.01, (side, name)
    base = {side: plain("token", "draft", -1).probs(side, 0) for side in ("target", "draft")}
    for mask in setups.MASKS[1:]:
        found = plain("token", "draft", -1, mask=mask)
        changed = {s for s in base if np.abs(found.probs(s, 0) - base[s]).max() > 0.01}
        expected = {"draft", "target"} if mask in ("both", "different") else {mask}
        assert changed == expected
    both, different = (plain("token", "draft", -1, mask=m).configs[0] for m in setups.MASKS[3:])
    assert (both.target_mask == both.draft_mask).all()
    assert (different.target_mask != different.draft_mask).any()


def test_a_one_hot_draft_meets_ids_the_target_cannot_emit():
    """Outside its vocabulary, and inside it but masked: both occur in the covering rows."""
    outside = masked = 0
    one_hot = [row for row in COVERING if row["cell"][1] == "one_hot" and row["vocab"] == "foreign"]
    for launch in setups.launches(one_hot):
        setup = setups.setup_of(launch)
        paths = law.Paths(Reference(), setup)
        for c, config in enumerate(setup.configs):
            context, token = paths.context[c, 0], paths.tokens[c, 0]
            outside += bool(token >= paths.vocab)
            masked += bool(token < paths.vocab and not config.target_mask[context, token])
    assert outside
    assert masked


def test_every_stop_rule_is_exercised():
    """The axis changes what happens: each rule stops some paths early and lets others go on."""
    early, full = set(), set()
    stops, reference = (*setups.ARMS, setups.ESTIMATED), Reference()
    reference.set_chunk(8)
    for stop in stops:
        for vocab, mask in (("same", "none"), ("smaller", "draft"), ("foreign", "none")):
            paths = law.Paths(reference, plain("token", "draft", stop, vocab, mask=mask))
            paths.draft()
            length = paths.proposal.length[paths.weight > 0]
            early |= {stop} if (length < paths.setup.slots).any() else set()
            full |= {stop} if (length == paths.setup.slots).any() else set()
            if stop in early & full:
                break
    assert early == set(stops) - {-1}, "-1 is no rule, which never stops early"
    assert full == set(stops) - {0, setups.PROBE}, "arm 0 drafts nothing, a probe one token"


def test_the_estimate_changes_what_survival_does():
    lengths, reference = [], Reference()
    reference.set_chunk(8)
    for stop in (setups.SURVIVAL, setups.ESTIMATED):
        paths = law.Paths(reference, plain("token", "draft", stop))
        paths.draft()
        lengths.append(paths.proposal.length[paths.weight > 0].unique(return_counts=True))
    assert str(lengths[0]) != str(lengths[1])


@pytest.mark.parametrize("rule", ["token", "block"])
def test_addresses_of_one_round_are_distinct(rule):
    """What makes the law a product: each uniform of a round has an address of its own.

    DRAFT and ACCEPT use one slot per draft; RESIDUAL the deciding slot, once.
    """
    reference = Reference()
    reference.set_chunk(8)
    setup = plain(rule, "draft", -1)
    _, found = round_law(reference, setup)
    slots = setup.slots
    expected = {(domain, slot) for domain in (DRAFT, ACCEPT) for slot in range(slots)}
    expected |= {(RESIDUAL, slot) for slot in range(slots + 1)}
    assert found.addresses == expected
