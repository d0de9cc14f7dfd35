"""Deliberately wrong Triton kernels: each must be killed by a named test of this suite.

``pytest -rA tests/test_triton_mutants.py`` prints the list (what is wrong, killed by).  To add one:
the line of ``tapout_kernels/_triton``, what it becomes, and the test that must then fail; a mutant
whose line is gone fails.  They are interpreted, whether there is a GPU or not.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
import test_bandit_hedge
import test_bandit_policies
import test_bandit_weights
import test_conformance
import test_cutoff
import test_gumbel
import test_known_answers
import test_peers
import test_tree_streams
import test_triton_launches
import test_verify_rules
import torch
import triton
import triton.language as tl
from helpers import stop_mutants
from helpers.killers import Killer, Mutant
from helpers.mutants import Edit
from helpers.triton_mutants import Kernels

from tapout_kernels import Proposal, RngState, SamplingParams, _triton, verify
from tapout_kernels._triton.core import accept, rng
from tapout_kernels.testing import Case


def run(killer: Killer, kernels: Kernels) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, kernels.running():
        killer.run("triton", triton=_triton, kernels=kernels, monkeypatch=monkeypatch)


def the_bonus_row_keeps_its_mask(backend: str) -> None:
    """vllm#44297: id 0 is all that row 0 allows, id 1 all that the bonus row does."""
    rng_state = RngState.of(range(4))
    draft = Proposal.from_tokens(torch.zeros(4, 1, dtype=torch.int64), rng_state, backend=backend)
    mask = torch.tensor([[[0b01], [0b10]]], dtype=torch.int32).repeat(4, 1, 1)
    target = torch.zeros(4, 2, 2)
    found = verify(target, draft, SamplingParams(), rng_state, token_mask=mask, backend=backend)
    assert found.tokens.tolist() == [[0, 1]] * 4


def siblings_of_a_row_share_its_draft(backend: str) -> None:
    """Rows of five ids with up to six children: many of them are rejected."""
    case = Case("tree_verify", batch=40, slots=6, vocab=5)
    assert test_conformance.check_case(backend, case) <= 1


@triton.jit
def _coin(out):
    word = tl.full([], 0, tl.uint32)
    uniform = rng.uniform_from_words(word, word)
    one, zero = tl.full([], 1.0, tl.float64), tl.full([], 0.0, tl.float64)
    tl.store(out, uniform)
    tl.store(out + 1, accept.accepts(uniform, zero, one).to(tl.float64))


def the_smallest_coin_accepts_nothing_impossible(kernels: Kernels) -> None:
    out = torch.zeros(2, dtype=torch.float64)
    here = {name: kernels.module(f"core.{name}") for name in ("rng", "accept")}
    with patch.multiple("test_triton_mutants", **here):
        _coin[(1,)](out)
    coin, accepted = out.tolist()
    assert coin > 0.0
    assert not accepted


ADDRESS = Killer(test_known_answers.test_draft_and_verify_use_their_addresses, round_=5)
MASK = Killer(the_bonus_row_keeps_its_mask)
COIN = Killer(the_smallest_coin_accepts_nothing_impossible)
RESIDUAL = Killer(test_peers.test_the_residual_subtracts_the_whole_draft_distribution)
UNPROPOSED = Killer(test_peers.test_an_unproposed_slot_is_not_a_rejection)
TILES = Killer(test_triton_launches.test_equal_logits_are_drawn_evenly_over_every_tile)
BETWEEN_LEVELS = Killer(test_verify_rules.test_block_between_its_levels, options={})
TICKETS = Killer(test_triton_launches.test_tickets_are_zero_between_launches)
CUTOFF = Killer(test_cutoff.test_cutoff_equals_a_sort, vocab=7, dtype=torch.float32)
LIST = Killer(test_cutoff.test_cutoff_equals_a_sort, vocab=8193, dtype=torch.bfloat16)
ARGMAX = Killer(
    test_gumbel.test_draw_equals_a_plain_argmax, vocab=8193, dtype=torch.bfloat16, threads=1
)
FILTERED = test_triton_launches.LONG.with_(sampling="all")
SPLITS = Killer(test_triton_launches.test_the_number_of_programs_changes_nothing, case=FILTERED)
ADVANCES = Killer(
    test_triton_launches.test_the_number_of_programs_changes_nothing,
    case=FILTERED.with_(op="sample"),
)
ESTIMATE = Killer(test_bandit_weights.test_losses_are_divided_by_the_probability_of_the_draw)
UNBIASED = Killer(test_bandit_hedge.test_estimates_are_unbiased_over_the_draw, limit=3, accepted=2)
UCBSPEC = Killer(
    test_bandit_policies.test_ucbspec_by_hand, policy="ucbspec", sums=[0.8, 5.49], best=0
)
EXIT = Killer(
    test_triton_launches.test_the_order_of_programs_changes_nothing,
    case=test_triton_launches.LONG.with_(op="verify"),
)
TREE_ROWS = Killer(siblings_of_a_row_share_its_draft)
TREE_CHAIN = Killer(
    test_tree_streams.test_a_chain_emits_what_verify_emits, rule="token", filters={}, one_hot=True
)
ROW_END, TOP_K, TOP_P, TOP_K_DRAFT, MIXED = (
    Killer(test_conformance.test_matches_the_reference, case=case)
    for case in (
        Case("row_stats", vocab=8193),
        Case("row_stats", vocab=7, sampling="top_k"),
        Case("row_stats", vocab=7, sampling="top_p"),
        Case("draft_step", vocab=7, sampling="top_k"),
        Case("row_stats", batch=10, vocab=7, sampling="mixed"),
    )
)


LEVEL_HOLDS = "level_holds(target, drafts, drawn, found, sums, request, level{}, home, tiles)"
DOWNWARD_SCAN = f"""
            level -= 1
            while {LEVEL_HOLDS.format("")} == 0:
                level -= 1
"""
UPWARD_SCAN = f"""
            last, level = level - 1, level * 0
            while (level < last) & {LEVEL_HOLDS.format(" + 1")}:
                level += 1
"""
MUTANTS = {
    "shared noise domain": Mutant(
        (Edit("verify_rows.py", "tl.load(rng.round + b), ACCEPT)",
              "tl.load(rng.round + b), tl.constexpr(0))"),), ADDRESS,
    ),
    "address without round": Mutant(
        (Edit("core/rng.py", "zero + low_word(round_)", "zero"),), ADDRESS
    ),
    "residual subtracts only the drafted token": Mutant(
        (Edit("drafts.py", "(z >= kept.cutoff) &", "(z == kept.token_logit) &"),), RESIDUAL
    ),
    "a uniform that can be 0, with <=": Mutant(
        (Edit("core/rng.py", "(bits.to(tl.float64) + 0.5)", "bits.to(tl.float64)"),
         Edit("core/accept.py", "uniform * p_draft < p_target", "uniform * p_draft <= p_target")),
        COIN,
    ),
    "last tile skipped by the draw": Mutant(
        (Edit("law.py", "Masses(records_of(scratch), tiles, law.maximum",
              "Masses(records_of(scratch), tl.maximum(tiles - 1, 1), law.maximum"),),
        TILES,
    ),
    "last tile skipped by the statistics": Mutant(
        (Edit("law.py", "scratch, tiles, sampling.inv_temperature, STATISTICS or",
              "scratch, tl.maximum(tiles - 1, 1), sampling.inv_temperature, STATISTICS or"),),
        ROW_END,
    ),
    "top-k cutoff off by one": Mutant(
        (Edit("search.py", "count, low, high, sampling.top_k.to(tl.float64), peak,",
              "count, low, high, sampling.top_k.to(tl.float64) - 1.0, peak,"),), TOP_K,
    ),
    "top-p cutoff off by one": Mutant(
        (Edit("search.py", "count, low, high, sampling.top_p * mass, peak,",
              "count, low, high, sampling.top_p * mass * 0.9, peak,"),), TOP_P,
    ),
    "unproposed slot counted as rejected": Mutant(
        (Edit("verify_rows.py", "return tl.minimum(tl.maximum(tl.load(length + b), 0), slots)",
              "return tl.load(length + b) * 0 + slots"),), UNPROPOSED,
    ),
    "every row under the mask of the first": Mutant(
        (Edit("verify_rows.py",
              "first * target.mask_batch_stride + at * target.mask_row_stride, exists",
              "first * target.mask_batch_stride, exists"),), MASK,
    ),
    "block scan that stops at the first failure": Mutant(
        (Edit("verify_end.py", DOWNWARD_SCAN, UPWARD_SCAN),), BETWEEN_LEVELS,
    ),
    "p_draft taken before top-k": Mutant(
        (Edit("law.py", "log_probability(z, law.maximum, sampling.inv_temperature, law.kept)",
              "log_probability(z, law.maximum, sampling.inv_temperature, law.total)"),),
        TOP_K_DRAFT,
    ),
    "ticket not reset": Mutant(
        (Edit("finish.py", "tl.store(ticket, 0)", "tl.store(ticket, 1)"),), TICKETS
    ),
    "every program takes itself for the last": Mutant(
        (Edit("finish.py", '== arrivals - 1', '>= 0'),), ADVANCES,
    ),
    "the last program merges only its own tiles": Mutant(
        (Edit("row_stats.py", "law = finish_row(row, drawn, own, tiles,",
              "law = finish_row(row, drawn, own, tl.cdiv(tiles, splits),"),), SPLITS,
    ),
    "a split that skips its last tile": Mutant(
        (Edit("scan.py", "tl.minimum(first + each, tiles)",
              "tl.minimum(first + each, tiles - 1)"),), ROW_END,
    ),
    "cutoff bound too high": Mutant(
        (Edit("search.py", "low = lower_bound(row, sampling, scratch, groups, least, total, peak, "
              "PRECISION, PIVOTS, LISTED)",
              "low = lower_bound(row, sampling, scratch, groups, least, total, peak, PRECISION, "
              "PIVOTS, LISTED) + 1"),), CUTOFF,
    ),
    "cutoff bound without the ties": Mutant(
        (Edit("search.py", "listed = z >= bound", "listed = z > bound"),), MIXED
    ),
    "candidate list off by one": Mutant(
        (Edit("search.py", "tl.cumsum(listed.to(tl.int32), 0) - 1, index, listed)",
              "tl.cumsum(listed.to(tl.int32), 0) - 1, index - 1, listed)"),), LIST,
    ),
    "candidate list that forgets its end": Mutant(
        (Edit("search.py", "    return count\n", "    return count - (count > 1)\n"),), LIST
    ),
    "early exit that skips a needed row": Mutant(
        (Edit("verify_rows.py", "> slots + 1 - slot\n", "> slots - 1 - slot\n"),), EXIT
    ),
    "gumbel winner of the first tile only": Mutant(
        (Edit("gumbel.py", "known = tile < tiles", "known = tile < 1"),), ARGMAX
    ),
    "exp3 without its importance weight": Mutant(
        (Edit("bandit_update.py", "(1.0 - reward) / tl.where(chance > 0.0, chance, 1.0)",
              "1.0 - reward"),), ESTIMATE,
    ),
    "exp3 with the probability of the first row": Mutant(
        (Edit("bandit_update.py", "cell = (row * size.arms + who)", "cell = (row * 0 + who)"),),
        ESTIMATE,
    ),
    "hedge scores only what was seen": Mutant(
        (Edit("hedge.py", "(1.0 - reward) / tl.where(seen, chance, 1.0)", "1.0 - reward"),),
        UNBIASED,
    ),
    "ucbspec over the total count": Mutant(
        (Edit("core/bandit.py", "(tl.sqrt(1.0 + known) / known)",
              "(tl.sqrt(1.0 + tl.exp(log_t)) / tl.exp(log_t))"),), UCBSPEC,
    ),
    "siblings tested independently": Mutant(
        (Edit("core/tree.py", "uniform * mass + slope * left", "uniform * left"),), TREE_ROWS
    ),
    "drafted mass not removed after a rejection": Mutant(
        (Edit("tree_step.py", "left - child.p_draft", "left"),), TREE_ROWS
    ),
    "rejected children left in the sum of the draft": Mutant(
        (Edit("tree_left.py", "tl.where(gone, 0.0, p_draft)", "p_draft"),), TREE_ROWS
    ),
    "one-hot sibling left in the residual": Mutant(
        (Edit("tree_left.py", "w = tl.where(among(tree, b, at, last, ids), 0.0, w)\n",
              "w = w * 1.0\n"),), TREE_CHAIN,
    ),
    **stop_mutants.TRITON,
}  # fmt: skip
# The others are tests that this suite runs on the source itself.
KILLERS = {killer.name: killer for killer in (MASK, COIN, ADDRESS, SPLITS, TREE_ROWS)}


SLOW = ("rejected children left in the sum of the draft", "one-hot sibling left in the residual")
NAMES = [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in MUTANTS]


@pytest.mark.parametrize("name", NAMES)
def test_triton_mutant_is_killed(name):
    killer = MUTANTS[name].killer
    kernels = Kernels(*MUTANTS[name].edits)
    with pytest.raises(AssertionError):
        run(killer, kernels)
    print(f"killed: {name} (by {killer.name})")


@pytest.mark.parametrize("name", KILLERS)
def test_the_source_as_it_is_survives(name):
    """A killer that fails everything would kill every mutant too."""
    run(KILLERS[name], Kernels())


def test_a_triton_mutant_whose_line_is_gone_is_refused():
    with pytest.raises(AssertionError, match="once, found it 0 times"):
        Kernels(Edit("finish.py", "a line that is not there", "0"))
