"""Deliberately wrong kernels: each must be killed by a named test of this suite.

``pytest -rA tests/test_native_mutants.py`` prints the list (what is wrong, killed by).  To add one:
the line of ``csrc``, what it becomes, and the test that must then fail; a mutant whose line is gone
fails.  Wrong references are in test_mutants.py; unmixed keys live in the caller, so they are in
neither: test_law_chi2.py::test_unmixed_keys_are_rejected.
"""

from __future__ import annotations

import pytest
import test_bandit_hedge
import test_bandit_policies
import test_bandit_weights
import test_compact_kv
import test_conformance
import test_known_answers
import test_peers
import test_tree_expand
import test_tree_streams
import torch
from helpers import decoder_mutants, lossy_mutants, stop_mutants
from helpers.killers import Killer, Mutant
from helpers.mutants import Edit
from helpers.native_mutants import NativeMutants, chosen

from tapout_kernels import Proposal, RngState, SamplingParams, verify
from tapout_kernels.testing import Case


def the_bonus_row_keeps_its_mask(backend: str) -> None:
    """vllm#44297: id 0 is all that row 0 allows, id 1 all that the bonus row does."""
    rng = RngState.of(range(64))
    draft = Proposal.from_tokens(torch.zeros(64, 1, dtype=torch.int64), rng, backend=backend)
    mask = torch.tensor([[[0b01], [0b10]]], dtype=torch.int32).repeat(64, 1, 1)
    target = torch.zeros(64, 2, 2)
    found = verify(target, draft, SamplingParams(), rng, token_mask=mask, backend=backend)
    assert found.tokens.tolist() == [[0, 1]] * 64


def the_smallest_coin_accepts_nothing_impossible(core) -> None:
    coin = core.uniform_from_words(0, 0)
    assert coin > 0.0
    assert not core.accepts(coin, 0.0, 1.0)


ADDRESS = Killer(test_known_answers.test_draft_and_verify_use_their_addresses, round_=5)
MASK = Killer(the_bonus_row_keeps_its_mask)
COIN = Killer(the_smallest_coin_accepts_nothing_impossible)
OWN_NOISE = Killer(test_peers.test_draft_accept_and_recovery_have_noise_of_their_own)
RESIDUAL = Killer(test_peers.test_the_residual_subtracts_the_whole_draft_distribution)
UNPROPOSED = Killer(test_peers.test_an_unproposed_slot_is_not_a_rejection)
LAST_TILE = Killer(test_peers.test_no_recovered_id_lies_outside_the_vocabulary, vocab=2047)
ESTIMATE = Killer(test_bandit_weights.test_losses_are_divided_by_the_probability_of_the_draw)
UNBIASED = Killer(test_bandit_hedge.test_estimates_are_unbiased_over_the_draw, limit=3, accepted=2)
OWN_MEMORY = Killer(test_bandit_hedge.test_every_rule_has_its_own_memory)
UCBSPEC = Killer(
    test_bandit_policies.test_ucbspec_by_hand, policy="ucbspec", sums=[0.8, 5.49], best=0
)
ROW_END, TOP_K, TOP_P, TOP_K_DRAFT, BLOCK = (
    Killer(test_conformance.test_matches_the_reference, case=case)
    for case in (
        Case("row_stats", vocab=1025),
        Case("row_stats", vocab=7, sampling="top_k"),
        Case("row_stats", vocab=7, sampling="top_p"),
        Case("draft_step", vocab=7, sampling="top_k"),
        Case("verify", batch=64, vocab=7, rule="block"),
    )
)
TREE_ROWS = Killer(
    test_conformance.test_equal_decisions_at_five_ids, op="tree_verify", rule="token",
    sampling="plain",
)  # fmt: skip
TRAVERSED = Killer(
    test_conformance.test_equal_decisions_at_five_ids, op="tree_verify", rule="block",
    sampling="plain",
)  # fmt: skip
TREE_ONE_HOT = Killer(
    test_conformance.test_matches_the_reference,
    case=Case("tree_verify", 200, 6, 7, drafts="one_hot"),
)
DRAWN = Killer(test_conformance.test_matches_the_reference, case=Case("tree_expand", 30, 4, 2500))
EAGLE = Killer(test_tree_expand.test_trees_are_eagle2s, depth=3, top_k=3, nodes=8)
DEPTH = Killer(test_tree_expand.test_depth_logsumexp_by_hand)
CONNECTED = Killer(test_tree_expand.test_rerank_keeps_what_is_connected)
PATH = Killer(
    test_compact_kv.test_a_path_is_taken_as_far_as_it_is_one, path=(2, 0, 1), count=3, start=0,
    moved=1, paged=False,
)  # fmt: skip
PAGES = Killer(test_compact_kv.test_pages_anywhere_hold_what_a_contiguous_cache_holds, page=4)
TREE_CHAIN = Killer(
    test_tree_streams.test_a_chain_emits_what_verify_emits, rule="token", filters={}, one_hot=False
)


UPWARD_SCAN = """
for (int64_t i = 1; i <= end; ++i) {
  const double uniform = noise(request, i - 1, Domain::kAccept), weight = levels[i].weight;
  const bool holds = i == end ? block_accepts_all(uniform, weight)
                              : block_accepts(uniform, rejected_mass(request, i, levels[i].law,
                                                                     weight, levels.row_team(i)),
                                              weight);
  if (holds) continue;
  rejected_mass(request, i - 1, levels[i - 1].law, levels[i - 1].weight, levels.row_team(i - 1));
  return i - 1;
}
return end;
"""
MUTANTS = {
    "shared noise domain": Mutant(
        (Edit("cpu/verify.cpp", "Domain::kAccept", "Domain::kDraft"),), OWN_NOISE
    ),
    "address without round": Mutant(
        (Edit("core/rng.h", "static_cast<uint32_t>(round)", "0u"),), ADDRESS
    ),
    "residual subtracts only the drafted token": Mutant(
        (Edit("cpu/draw.h", "select_ge16(z, draft_limit, weight, zero)",
              "select_ge16(min16(sub16(z, anchor), sub16(anchor, z)), zero, weight, zero)"),),
        RESIDUAL,
    ),
    "a uniform that can be 0, with <=": Mutant(
        (Edit("core/rng.h", "static_cast<double>(bits) + 0.5", "static_cast<double>(bits)"),
         Edit("core/accept.h", "uniform * p_draft < p_target", "uniform * p_draft <= p_target")),
        COIN,
    ),
    "last vocabulary tile skipped by the draw": Mutant(
        (Edit("cpu/draw.h", "for (int64_t c = 0; c < chunks; ++c) total += mass[c];",
              "for (int64_t c = 0; c < chunks - (chunks > 1); ++c) total += mass[c];"),), LAST_TILE,
    ),
    "last vocabulary tile skipped by the statistics": Mutant(
        (Edit("cpu/law.h", "row_moments(law.scratch.chunk, chunks, law.inv_temperature)",
              "row_moments(law.scratch.chunk, chunks - (chunks > 1), law.inv_temperature)"),),
        ROW_END,
    ),
    "top-k cutoff off by one": Mutant(
        (Edit("cpu/cutoff.h", "top_k_cutoff(law, sampling.top_k, cutoff, team)",
              "top_k_cutoff(law, sampling.top_k - (sampling.top_k > 1), cutoff, team)"),), TOP_K,
    ),
    "top-p cutoff off by one": Mutant(
        (Edit("cpu/cutoff.h",
              "top_p_cutoff(law, sampling.top_p, mass, cutoff, population, team)",
              "nextafterf(top_p_cutoff(law, sampling.top_p, mass, cutoff, population, team),"
              " INFINITY)"),), TOP_P,
    ),
    "unproposed slot counted as rejected": Mutant(
        (Edit("cpu/verify.cpp", "i == request.length", "i == request.params.slots"),), UNPROPOSED
    ),
    "bonus row without its mask": Mutant(
        (Edit("cpu/target.h", "row_at(params.target, params.mask, nullptr, request.b, i)",
              "row_at(params.target, i == request.length ? TokenMask{} : params.mask, nullptr,"
              " request.b, i)"),), MASK,
    ),
    "block scan that stops at the first failure": Mutant(
        (Edit("cpu/block.h", "if (end == 0) return 0;", UPWARD_SCAN),), BLOCK
    ),
    "q taken before top-k": Mutant(
        (Edit("cpu/law.h", "log_probability(logit, law.moments.max, law.inv_temperature, law.kept)",
              "log_probability(logit, law.moments.max, law.inv_temperature, law.moments.sum)"),),
        TOP_K_DRAFT,
    ),
    "exp3 without its importance weight": Mutant(
        (Edit("core/weights.h", "(1.0 - reward) / chance", "1.0 - reward"),), ESTIMATE
    ),
    "exp3 with the probability of the first row": Mutant(
        (Edit("core/weights.h", "(row * params.arms + arm)", "arm"),), ESTIMATE
    ),
    "hedge scores only what was seen": Mutant(
        (Edit("core/hedge.h", "loss_until(params, b, losses[i].stop) / chance",
              "loss_until(params, b, losses[i].stop)"),), UNBIASED,
    ),
    "hedge asks rules with the memory of the first row": Mutant(
        (Edit("core/hedge.h", "arm_stops_after(rules, row, arm, j, stats + j * kStatsColumns)",
              "arm_stops_after(rules, 0, arm, j, stats + j * kStatsColumns)"),), OWN_MEMORY,
    ),
    "ucbspec over the total count": Mutant(
        (Edit("core/bandit.h", "(sqrt(1.0 + pulls) / pulls)",
              "(sqrt(1.0 + exp(log_t)) / exp(log_t))"),), UCBSPEC,
    ),
    **stop_mutants.CORE,
    **stop_mutants.CPU,
    **lossy_mutants.CORE,
    **lossy_mutants.CPU,
    **decoder_mutants.CPU,
    "drawn children stay in the masses": Mutant(
        (Edit("cpu/remaining.h", "law.scratch.mass[home] = chunk_scale(law, home)"
              " * law.scratch.chunk[home].sum;", "home;"),), DRAWN,
    ),
    "siblings drawn with one uniform": Mutant(
        (Edit("cpu/tree_expand.cpp", "at.first + taken.count", "at.first"),), DRAWN
    ),
    "scores of parents forgotten": Mutant(
        (Edit("cpu/tree_expand.cpp", "static_cast<float>(above + law_log_probability(law, column))",
              "static_cast<float>(law_log_probability(law, column))"),), EAGLE,
    ),
    "best scores without the ties": Mutant(
        (Edit("core/tree.h", "best.ties-- > 0", "best.ties-- > 9"),), EAGLE
    ),
    "a tree that stops by its best node alone": Mutant(
        (Edit("cpu/tree_expand.cpp", "max + log(sum)", "max"),), DEPTH
    ),
    "a candidate kept without its parent": Mutant(
        (Edit("cpu/tree_rerank.cpp", "parent >= 0 && above < 0", "parent < -1"),), CONNECTED
    ),
    "an accepted path that need not rise": Mutant(
        (Edit("core/tree.h", "path[found] > last", "path[found] >= 0"),), PATH
    ),
    "slots of the first page alone": Mutant(
        (Edit("cpu/compact_kv.cpp", "slot / params.slots", "0 * slot"),), PAGES
    ),
    "siblings tested independently": Mutant(
        (Edit("core/tree.h", "uniform * row.mass + row.slope * row.left", "uniform * row.left"),),
        TREE_ROWS,
    ),
    "residual of a tree not renormalised": Mutant(
        (Edit("core/tree.h", "uniform * row.mass + row.slope * row.left",
              "uniform + row.slope * row.left"),), TREE_ROWS,
    ),
    "drafted mass not removed after a rejection": Mutant(
        (Edit("cpu/tree.h", "residual.left -= child.p_draft;", "residual.left -= 0.0;"),),
        TREE_ROWS,
    ),
    "every rejection takes the draft once more": Mutant(
        (Edit("core/tree.h", "row.slope + row.mass / row.left", "row.slope + 1.0"),), TREE_ROWS,
    ),
    "traversed siblings tested independently": Mutant(
        (Edit("cpu/tree_traverse.h", "here.residual = t.row.residual;",
              "here.residual = weighted_row(here.weight);"),), TRAVERSED,
    ),
    "a rejection leaves all of the weight": Mutant(
        (Edit("core/tree.h", "return rest / chance;", "return weight;"),), TRAVERSED,
    ),
    "one-hot sibling left in the residual": Mutant(
        (Edit("cpu/tree.h", "buffer.value[token % kChunk] = 0.0f;",
              "buffer.value[token % kChunk] += 0.0f;"),), TREE_ONE_HOT,
    ),
    "coins of siblings shared": Mutant(
        (Edit("cpu/tree_verify.cpp", "noise(request, node, Domain::kAccept)",
              "noise(request, row.at, Domain::kAccept)"),), TREE_ROWS,
    ),
    "coins at addresses of their own": Mutant(
        (Edit("cpu/tree_verify.cpp", "noise(request, node, Domain::kAccept)",
              "noise(request, node + 1, Domain::kAccept)"),), TREE_CHAIN,
    ),
}  # fmt: skip
# Compiled once, so one worker runs them.
pytestmark = pytest.mark.xdist_group("native mutants")
KILLERS = {mutant.killer.name: mutant.killer for mutant in MUTANTS.values()}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeMutants:
    edits = [mutant.edits for mutant in MUTANTS.values()]
    return NativeMutants(edits, tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("name", MUTANTS)
def test_native_mutant_is_killed(native, name):
    killer = MUTANTS[name].killer
    with native.running(1 + list(MUTANTS).index(name)), pytest.raises(AssertionError):
        killer.run("cpu", core=native.core)
    print(f"killed: {name} (by {killer.name})")


@pytest.mark.parametrize("name", KILLERS)
def test_the_source_as_it_is_survives(native, name):
    """A killer that fails everything would kill every mutant too."""
    with native.running(0):
        KILLERS[name].run("cpu", core=native.core)


def test_a_native_mutant_whose_line_is_gone_is_refused():
    edits = [(1, Edit("core/rng.h", "a line that is not there", "0"))]
    with pytest.raises(AssertionError, match="once, found it 0 times"):
        chosen("a line\n", "core/rng.h", edits)


def test_two_mutants_may_share_a_line():
    edits = [(1, Edit("f", "a + b", "a")), (2, Edit("f", "a + b", "b")), (3, Edit("f", "c;", "d;"))]
    assert chosen("x = a + b; c;", "f", edits) == (
        "x = (tapout_mutant == 1 ? (a) : tapout_mutant == 2 ? (b) : (a + b)); "
        "if (tapout_mutant == 3) { d; } else { c; }"
    )
