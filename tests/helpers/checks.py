"""What every mutant is asked: the heart of a test, as a yes or no about one reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from test_law_chi2 import MUTANT_REPLICAS, THRESHOLD, rounds_p_value, two_prompts_p_values
from test_law_gumbel import accepts_itself, output_is_the_targets_own
from test_tree_law import setup_of

from tapout_kernels import RngState, SamplingParams, StopRules, StopState
from tapout_kernels.proposal import Proposal
from tapout_kernels.reference.accept import LOSSY_RULES

from . import setups
from .law import DENSE, Layout
from .learning import Learner, Round, check_episode
from .lossy_drafts import judged_as_the_text_says
from .mutants import Reference
from .raw import caller_of
from .round_law import round_law, target_law
from .tree_law import TRAVERSAL, tree_error

LAW_BOUND = 2 * 2 * 3 * 2.0**-22  # test_law_exact.py: float32 statistics, K = 2


class Check(NamedTuple):
    test: str
    passes: Callable[[Reference], bool]


def exact_law(
    rule: str, source: str, vocab: str = "same", mask: str = "none", layout: Layout = DENSE
) -> Callable[[Reference], bool]:
    """Passes if the law of a round is the target's."""
    stops = (-1, 3, -1, 6, -1, 2, -1)
    rows = [
        {"cell": (rule, source, stop), "target_filter": target, "draft_filter": draft,
         "mask": mask, "vocab": vocab, "layout": layout}
        for stop, (target, draft) in zip(stops, setups.FILTER_PAIRS, strict=True)
    ]  # fmt: skip

    def passes(reference: Reference) -> bool:
        reference.set_chunk(2)
        setup = setups.setup_of(rows)
        try:
            found, _ = round_law(reference, setup)
        except AssertionError:  # an outcome that is no monotone function of its uniform
            return False
        return bool(np.abs(found - target_law(setup)).max() <= LAW_BOUND)

    return passes


def joint_law(reference: Reference) -> bool:
    return rounds_p_value(caller_of(reference.ops), MUTANT_REPLICAS) > THRESHOLD


def two_prompts(reference: Reference) -> bool:
    mix = reference.module("rng").mix64
    call = caller_of(reference.ops)
    found = two_prompts_p_values(call, MUTANT_REPLICAS, "token", "sequence", mix)
    return min(found.values()) > THRESHOLD


def zero_coin(reference: Reference) -> bool:
    """Passes if the smallest uniform accepts no token of target probability 0."""
    zero = torch.zeros(1, dtype=torch.int64)
    u = reference.module("rng").uniform_from_words(zero, zero)
    accepted = reference.module("accept").accept(u, torch.ones(1).double(), torch.zeros(1).double())
    return bool(u > 0) and not bool(accepted)


def unproposed_slots(reference: Reference) -> bool:
    """Passes if K = 3 slots with one draft of p_target = 1 accept it and add a bonus token."""
    call = caller_of(reference.ops)
    off = (
        "row_start", "temperature", "top_k", "top_p", "min_p", "token_mask", "rows",
        "draft_logits", "logits_row", "t2d", "overlap", "logprobs", "lossy_memory",
    )  # fmt: skip
    args = dict.fromkeys(off) | {
        "target_logits": torch.tensor([0.0, -torch.inf]).expand(1, 4, 2), "seed": torch.tensor([3]),
        "draft_tokens": torch.tensor([[0, -1, -1]]), "rule": 0, "raw_logprobs": False,
        "length": torch.tensor([1], dtype=torch.int32), "live": torch.tensor([True]),
        "round": torch.tensor([0]), "stats": torch.zeros(1, 3, 8),
        "position": torch.tensor([0]), "tokens": torch.zeros(1, 4, dtype=torch.int64),
        "num_accepted": torch.zeros(1, dtype=torch.int32), "accept_prob": torch.zeros(1, 3),
        "num_emitted": torch.zeros(1, dtype=torch.int32), "last_token": torch.tensor([0]),
        "status": torch.zeros(1, dtype=torch.int32),
    }  # fmt: skip
    call("verify", **args)
    return (args["tokens"].tolist(), args["status"].item(), args["accept_prob"].tolist()) == (
        [[0, 0, -1, -1]], 0, [[1.0, -1.0, -1.0]],
    )  # fmt: skip


def drafted_length(
    reference: Reference,
    rules: StopRules,
    state: StopState,
    estimate: float | None = None,
    prediction: float | None = None,
) -> int:
    """Tokens drafted from sharp logits (top-1 probability near 1), at most K = 4."""
    call, rng, slots = caller_of(reference.ops), RngState.of(5), 4
    proposal = Proposal.empty(1, slots, 3)
    table = {
        "rule_kind": rules.kind, "rule_param": rules.param, "arm": state.arm,
        "memory": state.memory,
    }  # fmt: skip
    call(
        "proposal_reset", max_length=None, live=None, rows=None, **table,
        prediction=None if prediction is None else torch.tensor([prediction]),
        rng_round=rng.round,
        tokens=proposal.tokens, length=proposal.length, out_max_length=proposal.max_length,
        active=proposal.active, out_live=proposal.live, round=proposal.round,
        num_active=proposal.num_active, stats=proposal.stats, stop_reason=proposal.stop_reason,
    )  # fmt: skip
    for _ in range(slots):
        call(
            "draft_step", logits=torch.tensor([[0.0, 9.0, 0.0]]), **SamplingParams().arguments(),
            token_mask=None, d2t=None,
            accept_estimate=None if estimate is None else torch.tensor([estimate]), seed=rng.seed,
            position=rng.position, round=proposal.round, max_length=proposal.max_length, rows=None,
            **table, rule=0, logits_row=None, tokens=proposal.tokens, length=proposal.length,
            active=proposal.active, num_active=proposal.num_active, kept_logits=proposal.logits,
            stats=proposal.stats, stop_reason=proposal.stop_reason,
            next_token=torch.zeros(1, dtype=torch.int64),
        )  # fmt: skip
    return int(proposal.length)


def survival_estimate(reference: Reference) -> bool:
    """Passes if estimates of 0.5 fall below 0.2 with the third token, and none never does."""
    rules = StopRules(("survival", {"threshold": 0.2}))
    state = StopState.of(1, rules)
    lengths = [drafted_length(reference, rules, state, estimate) for estimate in (0.5, None)]
    return lengths == [3, 4]


def arm_of_every_slot(reference: Reference) -> bool:
    """Passes if the arm that stops anywhere stops only where it is in charge: slot 2."""
    rules = StopRules(("fixed_length", {"n": 4}), ("fixed_length", {"n": 1}))
    state = StopState.of(1, rules, slots=4)
    state.arm[0, 2] = 1
    return drafted_length(reference, rules, state) == 3


def length_of(
    reference: Reference, rule: str, memory: tuple[float, ...] = (), told: float | None = None,
    **params: float,
) -> int:  # fmt: skip
    """Tokens that a rule drafts in the middle of a request, of at most 4."""
    rules = StopRules((rule, params))
    state = StopState.of(1, rules)
    state.memory[0, 0, : len(memory)] = torch.tensor(memory)
    return drafted_length(reference, rules, state, prediction=told)


def remembered_lengths(reference: Reference) -> bool:
    """Passes if rules stop by what they remember: H is about .002 in every slot."""
    return [
        length_of(reference, "gammatune", (2.0,)),
        length_of(reference, "gammatune_plus", (3.0,)),
        length_of(reference, "gammatune_plus", (3.0,), threshold=1.5),
        length_of(reference, "adasd_entropy", (1.0, 0.0, 1.0, 2.0)),
        length_of(reference, "adasd_entropy", (1.0, 0.0, 1.0, 0.0)),
        length_of(reference, "predicted_length", told=1.5),
    ] == [2, 3, 1, 4, 1, 2]


def refusals(reference: Reference) -> bool:
    """Passes if hysteresis refuses two rounds of three while off, and a prediction of 0 all."""
    off = [
        length_of(reference, "hysteresis", (9.0, 1.0, idle), probe_every=3) for idle in (0, 1, 2)
    ]
    return [*off, length_of(reference, "predicted_length", told=0.0)] == [0, 0, 1, 0]


def memory_of(episode: str) -> Callable[[Reference], bool]:
    def passes(reference: Reference) -> bool:
        try:
            check_episode(caller_of(reference.ops), episode)
        except AssertionError:
            return False
        return True

    return passes


def trees(name: str = "star", **fields: object) -> Callable[[Reference], bool]:
    """Passes if the law of a round with a tree of three nodes is the target's."""
    bound = 2 * 3 * 2.0**-22  # float32 statistics, three nodes

    def passes(reference: Reference) -> bool:
        return tree_error(reference, setup_of(name, **fields)) <= bound

    return passes


def unverified_rounds(reference: Reference) -> bool:
    """Passes if a round of a bad status leaves the memory as it was."""
    learner = Learner(caller_of(reference.ops), StopRules("heuristic", "heuristic"), 4)
    before = learner.memory
    learner.learn(Round(3, 1, ()), status=torch.ones(1, dtype=torch.int32))
    return learner.memory == before


def gumbel_accepts_itself(reference: Reference) -> bool:
    return accepts_itself(caller_of(reference.ops))


_BY_HAND = "test_stop_memory.py::test_memory_by_hand"
_EXACT = "test_law_exact.py::test_law_is_exact"
CHECKS = {
    "token, full": Check(f"{_EXACT}[token-draft-0]", exact_law("token", "draft")),
    "token, one-hot": Check(f"{_EXACT}[token-one_hot-0]", exact_law("token", "one_hot")),
    "token, masks": Check(
        f"{_EXACT}[token-draft-0]", exact_law("token", "draft", mask="different")
    ),
    "token, vocabulary": Check(f"{_EXACT}[token-draft-0]", exact_law("token", "draft", "smaller")),
    "token, foreign ids": Check(f"{_EXACT}[token-draft-0]", exact_law("token", "draft", "foreign")),
    "block, foreign ids": Check(f"{_EXACT}[block-draft-0]", exact_law("block", "draft", "foreign")),
    "token, ragged": Check(
        f"{_EXACT}[token-draft-0]", exact_law("token", "draft", layout=Layout(ragged=True))
    ),
    "block, full": Check(f"{_EXACT}[block-draft-0]", exact_law("block", "draft")),
    "joint law": Check(
        "test_law_chi2.py::test_consecutive_rounds_have_the_target_law[reference-token-filters]",
        joint_law,
    ),
    "two prompts": Check(
        "test_law_chi2.py::test_two_prompts_under_one_bandit_are_independent", two_prompts
    ),
    "gumbel identity": Check(
        "test_law_gumbel.py::test_output_is_the_targets_own", output_is_the_targets_own
    ),
    "gumbel accepts itself": Check(
        "test_law_gumbel.py::test_a_draft_with_the_targets_logits_is_accepted_whole",
        gumbel_accepts_itself,
    ),
    "trees": Check("test_tree_law.py::test_law_is_exact[star-drawn]", trees()),
    "trees, one-hot": Check(
        "test_tree_law.py::test_law_is_exact[star-one_hot]", trees(one_hot=True)
    ),
    "leaves first": Check(
        "test_tree_law.py::test_law_of_leaves_first_is_exact[star-filters-False]",
        trees(filters="filters", rule=TRAVERSAL),
    ),
    "leaves first, deep": Check(
        "test_tree_law.py::test_law_of_leaves_first_is_exact[chain-plain-False]",
        trees("chain", rule=TRAVERSAL),
    ),
    "zero coin": Check("test_mutants.py::test_the_shipped_reference_survives", zero_coin),
    "unproposed slots": Check(
        "test_mutants.py::test_the_shipped_reference_survives", unproposed_slots
    ),
    "survival estimate": Check(
        "test_mutants.py::test_the_shipped_reference_survives", survival_estimate
    ),
    "lengths": Check(
        "test_stop_rules.py::test_both_sides_of_what_is_remembered", remembered_lengths
    ),
    "refusals": Check("test_stop_memory.py::test_hysteresis_probes_while_it_is_off", refusals),
    "unverified rounds": Check(
        "test_stop_memory.py::test_what_teaches_nothing_is_not_remembered", unverified_rounds
    ),
    **{
        f"memory of {name}": Check(f"{_BY_HAND}[reference-{name}]", memory_of(name))
        for name in (
            "gammatune",
            "gammatune, rounding",
            "heuristic",
            "hysteresis",
            "adasd_entropy",
            "adl",
        )
    },
    **{
        f"drafts of {rule}": Check(
            f"test_lossy.py::test_every_draft_is_judged_as_the_text_says[reference-{rule}]",
            judged_as_the_text_says(rule),
        )
        for rule in LOSSY_RULES
    },
    "arm of every slot": Check(
        "test_mutants.py::test_the_shipped_reference_survives", arm_of_every_slot
    ),
}
