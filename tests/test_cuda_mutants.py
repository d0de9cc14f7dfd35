"""Deliberately wrong CUDA kernels: each must be killed by a named test of this suite.

``pytest -rA tests/test_cuda_mutants.py`` prints the list (what is wrong, killed by).  To add one:
the line of ``csrc``, what it becomes, and the test that must then fail; a mutant whose line is gone
fails.  They are emulated, whether there is a GPU or not.
"""

from __future__ import annotations

import pytest
import test_bandit_blocks
import test_bandit_hedge
import test_bandit_loops
import test_bandit_policies
import test_bandit_weights
import test_compact_kv
import test_conformance
import test_cuda_launches
import test_gumbel
import test_known_answers
import test_peers
import test_tree_layout
import test_verify_rules
import torch
from helpers import stop_mutants
from helpers.cuda_mutants import CudaMutants
from helpers.killers import Killer, Mutant
from helpers.mutants import Edit
from test_native_mutants import the_bonus_row_keeps_its_mask

from tapout_kernels.testing import Case

ADDRESS = Killer(test_known_answers.test_draft_and_verify_use_their_addresses, round_=5)
MASK = Killer(the_bonus_row_keeps_its_mask)
OWN_NOISE = Killer(test_peers.test_draft_accept_and_recovery_have_noise_of_their_own)
RESIDUAL = Killer(test_peers.test_the_residual_subtracts_the_whole_draft_distribution)
UNPROPOSED = Killer(test_peers.test_an_unproposed_slot_is_not_a_rejection)
ARGMAX = Killer(
    test_gumbel.test_draw_equals_a_plain_argmax, vocab=8193, dtype=torch.bfloat16, threads=1
)
ROW_END, SPLIT_END, TOP_K, TOP_P, TOP_K_DRAFT = (
    Killer(test_conformance.test_matches_the_reference, case=case)
    for case in (
        Case("row_stats", vocab=1025),
        Case("verify", batch=2, vocab=8193),
        Case("row_stats", vocab=7, sampling="top_k"),
        Case("row_stats", vocab=7, sampling="top_p"),
        Case("draft_step", vocab=7, sampling="top_k"),
    )
)
LEVELS = Killer(test_verify_rules.test_block_between_its_levels, options={})
ORDER, EXIT = (
    Killer(test_cuda_launches.test_the_order_of_blocks_and_threads_changes_nothing, case=case)
    for case in (
        test_cuda_launches.LONG.with_(op="sample"),
        test_cuda_launches.VERIFY.with_(batch=4, slots=6),
    )
)
UCBSPEC = Killer(
    test_bandit_policies.test_ucbspec_by_hand, policy="ucbspec", sums=[0.8, 5.49], best=0
)
DISTRIBUTION = Killer(test_bandit_weights.test_exp3_draws_from_exponential_weights)
ESTIMATE = Killer(test_bandit_weights.test_losses_are_divided_by_the_probability_of_the_draw)
UNBIASED = Killer(test_bandit_hedge.test_estimates_are_unbiased_over_the_draw, limit=3, accepted=2)
ROUNDS = Killer(test_bandit_hedge.test_rounds_before_the_discount_keep_less)
TURNS = Killer(test_bandit_blocks.test_equal_arms_take_turns)
CALLS = Killer(test_bandit_blocks.test_calls_advance_once_whatever_the_number_of_programs)
BLOCKS = Killer(
    test_bandit_blocks.test_more_than_two_blocks_of_rows, op="proposal_reset", batch=4097
)
CREDIT = Killer(
    test_bandit_loops.test_credit_and_discount_equal_a_loop, bandit="ucb1_token", seed=0
)
IN_PLACE = Killer(
    test_bandit_loops.test_a_step_is_an_update_and_a_selection, bandit="ucb1_token", seed=0
)
TREE_ROWS = Killer(
    test_conformance.test_equal_decisions_at_five_ids, op="tree_verify", rule="token",
    sampling="plain",
)  # fmt: skip
TREE_LEFT, TREE_ONE_HOT = (
    Killer(test_conformance.test_matches_the_reference, case=case)
    for case in (
        Case("tree_verify", 400, 6, 7),
        Case("tree_verify", 40, 6, 7, drafts="one_hot"),
    )
)
PAGES = Killer(test_compact_kv.test_pages_anywhere_hold_what_a_contiguous_cache_holds, page=4)
POINTERS = Killer(test_tree_layout.test_layouts_follow_the_pointers, nodes=100)


MUTANTS = {
    "shared noise domain": Mutant(
        (Edit("cuda/verify_rows.cuh", "Domain::kAccept", "Domain::kDraft"),), OWN_NOISE
    ),
    "address without round": Mutant(
        (Edit("core/rng.h", "static_cast<uint32_t>(round)", "0u"),), ADDRESS
    ),
    "residual subtracts only the drafted token": Mutant(
        (Edit("cuda/drafts.cuh", "logit >= scale.cutoff && logit > -INFINITY",
              "logit == scale.token_logit"),), RESIDUAL,
    ),
    "last chunk skipped by the statistics": Mutant(
        (Edit("cuda/law.cuh", "num_chunks(row.vocab)",
              "num_chunks(row.vocab) - (row.vocab > kChunk)"),), ROW_END,
    ),
    "last chunk of a split skipped": Mutant(
        (Edit("cuda/verify_rows.cuh", "first + split.chunks",
              "first + split.chunks - (split.blocks > 1)"),), SPLIT_END,
    ),
    "top-k cutoff off by one": Mutant(
        (Edit("cuda/search.cuh", "by_mass ? ceil(sampling.top_p * units) : sampling.top_k",
              "by_mass ? ceil(sampling.top_p * units) : sampling.top_k - (sampling.top_k > 1)"),),
        TOP_K,
    ),
    "top-p cutoff off by one": Mutant(
        (Edit("cuda/search.cuh", "by_mass ? ceil(sampling.top_p * units) : sampling.top_k",
              "by_mass ? ceil(sampling.top_p * units * 0.9) : sampling.top_k"),), TOP_P,
    ),
    "unproposed slot counted as rejected": Mutant(
        (Edit("cuda/verify_request.cuh",
              "length < 0 ? 0 : length > params.slots ? params.slots : length",
              "params.slots"),), UNPROPOSED,
    ),
    "bonus row without its mask": Mutant(
        (Edit("cuda/verify_request.cuh", "request.params.mask",
              "slot == request.length ? TokenMask{} : request.params.mask"),), MASK,
    ),
    "block takes the smallest level that holds": Mutant(
        (Edit("cuda/verify_end.cuh", "max(accepted, largest[warp])",
              "accepted > 0 && largest[warp] > 0 ? min(accepted, largest[warp])"
              " : max(accepted, largest[warp])"),), LEVELS,
    ),
    "p_draft taken before top-k": Mutant(
        (Edit("cuda/law.cuh",
              "log_probability(logit, law.max, inverse_temperature(sampling.temperature), "
              "law.kept)",
              "log_probability(logit, law.max, inverse_temperature(sampling.temperature), "
              "law.sum)"),), TOP_K_DRAFT,
    ),
    "every block takes itself for the last": Mutant(
        (Edit("cuda/finish.cuh", "ticket_arrive(ticket, arrivals) == arrivals - 1",
              "ticket_arrive(ticket, arrivals) < arrivals"),), ORDER,
    ),
    "early exit that skips rows before the one that fails": Mutant(
        (Edit("cuda/verify_rows.cuh",
              "load_relaxed(request.scratch.decided + request.b) > "
              "request.params.slots + 1 - slot",
              "load_relaxed(request.scratch.decided + request.b) > 0"),), EXIT,
    ),
    "gumbel winner of the first chunk only": Mutant(
        (Edit("cuda/gumbel.cuh", "c < num_chunks(row.vocab)", "c < 1"),), ARGMAX
    ),
    "a tie goes to the highest arm": Mutant(
        (Edit("cuda/bandit_pending.cuh", "other == score && rival < arm",
              "other == score && rival > arm"),), TURNS,
    ),
    "pending pulls do not count": Mutant(
        (Edit("cuda/bandit_pending.cuh", "arm.count + added", "arm.count"),), TURNS
    ),
    "ucbspec over the total count": Mutant(
        (Edit("core/bandit.h", "(sqrt(1.0 + pulls) / pulls)",
              "(sqrt(1.0 + exp(log_t)) / exp(log_t))"),), UCBSPEC,
    ),
    "a distribution kept in the first row": Mutant(
        (Edit("cuda/bandit_choose.cuh", "state_row(params.rows, b) * arms * slots + cell.slot",
              "cell.slot"),), DISTRIBUTION,
    ),
    "exp3 without its importance weight": Mutant(
        (Edit("core/weights.h", "(1.0 - reward) / chance", "1.0 - reward"),), ESTIMATE
    ),
    "hedge scores only what was seen": Mutant(
        (Edit("core/hedge.h", "loss_until(params, b, losses[i].stop) / chance",
              "loss_until(params, b, losses[i].stop)"),), UNBIASED,
    ),
    "every round teaches what the first did": Mutant(
        (Edit("cuda/bandit_learn.cuh", "losses[lessons[i].round * params.arms + arm]",
              "losses[arm]"),), ROUNDS,
    ),
    "credit that is discounted at once": Mutant(
        (Edit("cuda/bandit_learn.cuh", "count * factor + (own ? 1.0 : 0.0)",
              "(count + (own ? 1.0 : 0.0)) * factor"),), CREDIT,
    ),
    "new arms written where the old ones are still read": Mutant(
        (Edit("cuda/bandit_choose.cuh", "learns && slots > 1 ? each : 0", "0"),), IN_PLACE
    ),
    "every block counts the call": Mutant(
        (Edit("cuda/bandit_choose.cuh", "if (!arrives_last(scratch.ticket, gridDim.x)) return;",
              "arrives_last(scratch.ticket, gridDim.x);"),), CALLS,
    ),
    "active rows of the first block only": Mutant(
        (Edit("cuda/proposal_reset.cu", "load_fresh(counts + block)", "load_fresh(counts)"),),
        BLOCKS,
    ),
    "siblings tested independently": Mutant(
        (Edit("core/tree.h", "uniform * row.mass + row.slope * row.left", "uniform * row.left"),),
        TREE_ROWS,
    ),
    "drafted mass not removed after a rejection": Mutant(
        (Edit("cuda/tree_rows.cuh", "row.residual.left -= child.p_draft;",
              "row.residual.left -= 0.0;"),), TREE_LEFT,
    ),
    "one-hot sibling left in the residual": Mutant(
        (Edit("cuda/draw.cuh", "if (without(begin + i)) return 0.0;",
              "if (without(begin + i) && begin < 0) return 0.0;"),), TREE_ONE_HOT,
    ),
    "moves of a page's first slot alone": Mutant(
        (Edit("cuda/compact_kv.cu", "slot % params.slots * params.slot_stride",
              "0 * params.slot_stride"),), PAGES,
    ),
    "ancestors of a node's own word alone": Mutant(
        (Edit("cuda/tree_layout.cu", "at = leave_group(request, at)", "at = -1"),), POINTERS,
    ),
    **stop_mutants.CORE,
    **stop_mutants.CUDA,
}  # fmt: skip
# Compiled once, so one worker runs them.
pytestmark = pytest.mark.xdist_group("cuda mutants")
KILLERS = {mutant.killer.name: mutant.killer for mutant in MUTANTS.values()}


@pytest.fixture(scope="module")
def cuda() -> CudaMutants:
    return CudaMutants([mutant.edits for mutant in MUTANTS.values()])


@pytest.mark.parametrize("name", MUTANTS)
def test_cuda_mutant_is_killed(cuda, name):
    """By a wrong result, or by what the emulator says of it."""
    killer = MUTANTS[name].killer
    said = (AssertionError, RuntimeError)
    with cuda.running(1 + list(MUTANTS).index(name)), pytest.raises(said):
        killer.run("cuda", emulator=cuda.emulator)
    print(f"killed: {name} (by {killer.name})")


@pytest.mark.parametrize("name", KILLERS)
def test_the_source_as_it_is_survives(cuda, name):
    """A killer that fails everything would kill every mutant too."""
    with cuda.running(0):
        KILLERS[name].run("cuda", emulator=cuda.emulator)
