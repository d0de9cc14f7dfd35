"""Every stop rule on both sides of its threshold, at temperature 1 and at temperature 0."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.rounds import drafted

from tapout_kernels import Proposal, RngState, SamplingParams, StopRules, StopState, draft_step
from tapout_kernels.reference.stop import STOP_RULES

NONE, RULE, MAX_LENGTH, PRE_DRAFT, NOT_LIVE, BAD_LOGITS = range(6)
EVEN = [0.0, 0.0]  # two equal logits: H = ln 2, top-1 = top-2 = 1/2
SURE = [200.0, 0.0]  # H = 0, top-1 = 1
ROOT = math.sqrt(math.log(2))  # 0.8326 = sqrt(H) of EVEN
CONFIDENCE = 1 - math.sqrt(0.2 * math.log(2))  # 0.6277 = adaedl's bound on EVEN
STEP = 1e-4

# rule, parameters that stop after the last row given, parameters that do not, the rows
SIDES = [
    ("fixed_length", {"n": 2}, {"n": 3}, [EVEN, EVEN]),
    ("fixed_length", {"n": 1.5}, {"n": 2.5}, [EVEN, EVEN]),
    ("max_confidence", {"threshold": 0.5 + STEP}, {"threshold": 0.5 - STEP}, [EVEN]),
    ("svip", {"threshold": ROOT - STEP}, {"threshold": ROOT + STEP}, [EVEN]),
    ("svip_difference", {"threshold": ROOT - STEP}, {"threshold": ROOT + STEP}, [SURE, EVEN]),
    ("svip_difference", {"threshold": -STEP}, {"threshold": STEP}, [EVEN, EVEN]),
    ("logit_margin", {"threshold": STEP}, {"threshold": -STEP}, [EVEN]),
    ("logit_margin", {"threshold": 1 + STEP}, {"threshold": 1 - STEP}, [SURE]),
    ("adaedl", {"gamma": 0.2, "initial_threshold": CONFIDENCE + STEP},
     {"gamma": 0.2, "initial_threshold": CONFIDENCE - STEP}, [EVEN]),
    ("adaedl", {"gamma": 0.0, "initial_threshold": 1 + STEP},
     {"gamma": 0.0, "initial_threshold": 1 - STEP}, [EVEN]),
    ("survival", {"threshold": 0.5 + STEP}, {"threshold": 0.5 - STEP}, [EVEN]),
    ("survival", {"threshold": 0.125 + STEP}, {"threshold": 0.125 - STEP}, [EVEN, EVEN, EVEN]),
    ("gammatune", {"initial_length": 2}, {"initial_length": 2.5}, [EVEN, EVEN]),
    ("gammatune_plus", {"initial_length": 2}, {"initial_length": 3}, [EVEN, EVEN]),
    ("gammatune_plus", {"threshold": 0.5 + STEP}, {"threshold": 0.5 - STEP}, [EVEN]),
    ("heuristic", {"initial_length": 2}, {"initial_length": 3}, [EVEN, EVEN]),
    ("adl", {"longest": 2}, {"longest": 3}, [EVEN, EVEN]),
]  # fmt: skip
# rule, a memory that stops after the last row given, one that does not, the rows
REMEMBERED = [
    ("hysteresis", [0.0, 1.0, 7.0], [9.0, 0.0, 0.0], [EVEN]),
    ("adasd_entropy", [3.0, 0.5, 1.0, 0.8], [3.0, 0.5, 1.0, 0.9], [SURE, EVEN]),  # ln 2 = .693
    ("adasd_entropy", [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], [EVEN]),
    ("predicted_length", [2.0], [math.nan], [EVEN, EVEN]),
]
# Exactly at the threshold, where the inequality is strict no rule stops.
STRICT = [
    ("max_confidence", {"threshold": 0.5}, [EVEN]),
    ("logit_margin", {"threshold": 0.0}, [EVEN]),
    ("logit_margin", {"threshold": 1.0}, [SURE]),
    ("svip", {"threshold": 0.0}, [SURE]),
    ("svip_difference", {"threshold": 0.0}, [EVEN, EVEN]),
    ("svip_difference", {"threshold": -9.0}, [EVEN]),  # never at slot 0
    ("adaedl", {"gamma": 0.2, "initial_threshold": 1.0}, [SURE]),
    ("survival", {"threshold": 0.25}, [EVEN, SURE, EVEN]),
    ("gammatune_plus", {"threshold": 0.5}, [EVEN]),
]

ids = [f"{name}-{i}" for i, (name, *_) in enumerate(SIDES)]
temperatures = pytest.mark.parametrize("temperature", [1.0, 0.0])


def outcome(backend, name, params, rows, temperature=1.0, memory=()) -> tuple[int, int]:
    """Length and stop reason of a draft over the rows (the last one repeats no further)."""
    rules, slots = StopRules("fixed_length", (name, params)), 4
    state = StopState.of(1, rules, arm=1)
    state.memory[0, 1, : len(memory)] = torch.tensor(memory)
    told = torch.tensor(memory) if name == "predicted_length" else None
    logits = torch.tensor(rows)[None]
    sampling = SamplingParams.of(1, [temperature])
    proposal = Proposal.empty(1, slots, 2)
    rng = RngState.of(0)
    proposal.reset(rng, rules, state, prediction=told, backend=backend)
    for row in logits[0]:
        assert proposal.active.item(), "stopped before the row under test"
        draft_step(row[None], proposal, sampling, rng, rules=rules, state=state, backend=backend)
    return proposal.length.item(), proposal.stop_reason.item()


@temperatures
@pytest.mark.parametrize(("name", "stops", "goes_on", "rows"), SIDES, ids=ids)
def test_both_sides_of_the_threshold(backend, name, stops, goes_on, rows, temperature):
    """At temperature 0 the statistics are those of temperature 1, so every rule can fire."""
    assert outcome(backend, name, stops, rows, temperature) == (len(rows), RULE)
    assert outcome(backend, name, goes_on, rows, temperature) == (len(rows), NONE)


@temperatures
@pytest.mark.parametrize(("name", "stops", "goes_on", "rows"), REMEMBERED)
def test_both_sides_of_what_is_remembered(backend, name, stops, goes_on, rows, temperature):
    found = [outcome(backend, name, {}, rows, temperature, memory) for memory in (stops, goes_on)]
    assert found == [(len(rows), RULE), (len(rows), NONE)]


@pytest.mark.parametrize(("name", "params", "rows"), STRICT)
def test_at_the_threshold_drafting_goes_on(backend, name, params, rows):
    assert outcome(backend, name, params, rows) == (len(rows), NONE)


def test_every_rule_is_covered():
    assert {name for name, *_ in SIDES + REMEMBERED} == {rule.name for rule in STOP_RULES}


def test_greedy_rule_drafts_stop_too(backend):
    rules = StopRules(("svip", {"threshold": 0.6}))
    draft = drafted(
        torch.tensor([EVEN, SURE]), 3, RngState.of([0, 1]), rules=rules,
        state=StopState.of(2, rules), rule="greedy", backend=backend,
    )  # fmt: skip
    assert draft.length.tolist() == [1, 3]
    assert draft.stop_reason.tolist() == [RULE, MAX_LENGTH]


def test_pre_draft_and_max_length(backend):
    """n <= 0 drafts nothing; a limit of 0 drafts nothing; beyond K it is K; -5 counts as 0."""
    rules = StopRules(("fixed_length", {"n": 0}), ("fixed_length", {"n": -1}), "svip")
    state = StopState.of(6, rules)
    state.arm.copy_(torch.tensor([0, 1, 2, 2, 2, 0]))
    rng, proposal = RngState.of(range(6)), Proposal.empty(6, 3, 2)
    limit = torch.tensor([3, 3, 0, 99, -5, 0], dtype=torch.int32)
    proposal.reset(rng, rules, state, max_length=limit, backend=backend)
    assert proposal.stop_reason.tolist() == [
        PRE_DRAFT, PRE_DRAFT, MAX_LENGTH, NONE, MAX_LENGTH, PRE_DRAFT,
    ]  # fmt: skip
    assert proposal.max_length.tolist() == [3, 3, 0, 3, 0, 0]
    assert proposal.active.tolist() == [False, False, False, True, False, False]
    assert proposal.num_active.item() == 1
    assert rng.round.tolist() == [1] * 6, "a round that drafts nothing is a round"


@pytest.mark.parametrize("arm", [-1, 3, 1 << 30, -(1 << 31)])
def test_an_arm_outside_the_table_is_no_rule(backend, arm):
    rules = StopRules(("fixed_length", {"n": 0}), ("fixed_length", {"n": 1}), "svip")
    state = StopState.of(1, rules)
    state.arm.fill_(arm)
    draft = drafted(torch.tensor([EVEN]), 3, RngState.of(0), rules=rules, state=state,
                    backend=backend)  # fmt: skip
    assert (draft.length.item(), draft.stop_reason.item()) == (3, MAX_LENGTH)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_logits_stop_the_draft(backend, bad):
    """Nothing of the bad row is stored; the tokens before it stay."""
    logits = torch.tensor([[SURE, [bad, 0.0], SURE], [SURE, SURE, [-math.inf] * 2]])
    draft = drafted(logits, 3, RngState.of([1, 2]), backend=backend)
    assert draft.length.tolist() == [1, 2]
    assert draft.stop_reason.tolist() == [BAD_LOGITS] * 2
    assert draft.tokens.tolist() == [[0, -1, -1], [0, 0, -1]]
    assert not draft.stats[0, 1].any()
    # A GPU copies a row while it reads it, before it knows; nobody reads a slot behind the length.
    assert backend in ("triton", "cuda") or not draft.logits[0, 1].any()
    assert draft.num_active.item() == 0


def test_drafts_made_elsewhere_stop_alike(backend):
    """from_tokens cuts where draft_step would have stopped, and keeps the stopping token."""
    rules = StopRules(("svip", {"threshold": 0.6}), ("fixed_length", {"n": 2}))
    state = StopState.of(4, rules)
    state.arm.copy_(torch.tensor([0, 1, 0, -1]))
    logits = torch.tensor([[SURE, EVEN, SURE]] * 4)
    logits[2, 0, 0] = math.nan
    draft = Proposal.from_tokens(
        torch.zeros(4, 3, dtype=torch.int64), RngState.of(range(4)), logits=logits,
        sampling=SamplingParams(), rules=rules, state=state, backend=backend,
    )  # fmt: skip
    assert draft.length.tolist() == [2, 2, 0, 3]
    assert draft.stop_reason.tolist() == [RULE, RULE, BAD_LOGITS, MAX_LENGTH]
    assert draft.tokens.tolist() == [[0, 0, -1], [0, 0, -1], [-1] * 3, [0, 0, 0]]


def test_length_of_drafts_made_elsewhere(backend):
    tokens = torch.tensor([[5, 7, -1], [5, -1, 7], [-1, 5, 7], [5, 7, 9], [5, 7, 9]])
    limit = torch.tensor([3, 3, 3, 2, 3], dtype=torch.int32)
    live = torch.tensor([True, True, True, True, False])
    draft = Proposal.from_tokens(
        tokens, RngState.of(range(5)), max_length=limit, live=live, backend=backend
    )
    assert draft.length.tolist() == [2, 1, 0, 2, 0]
    assert draft.stop_reason.tolist() == [NONE, NONE, NONE, MAX_LENGTH, NOT_LIVE]
    given = torch.tensor([3, 99, -4, 1, 3], dtype=torch.int32)
    draft = Proposal.from_tokens(tokens, RngState.of(range(5)), length=given, backend=backend)
    assert draft.length.tolist() == [3, 3, 0, 1, 3]
    assert draft.tokens[0].tolist() == [5, 7, -1], "a given length wins over a -1"


def estimated(backend: str, estimates: list[float], threshold: float) -> Proposal:
    """Drafts over sure rows, so that only the estimates can stop them."""
    rules = StopRules(("survival", {"threshold": threshold}))
    state, rng = StopState.of(1, rules), RngState.of(0)
    proposal = Proposal.empty(1, 4, 2)
    proposal.reset(rng, rules, state, backend=backend)
    for estimate in estimates:
        draft_step(
            torch.tensor([SURE]), proposal, SamplingParams(), rng, rules=rules, state=state,
            accept_estimate=torch.tensor([estimate]), backend=backend,
        )  # fmt: skip
    return proposal


def test_survival_multiplies_the_estimates_it_is_given(backend):
    proposal = estimated(backend, [0.9, 0.8, 0.7, 0.6], threshold=0.6)  # .9, .72, .504
    assert (proposal.length.item(), proposal.stop_reason.item()) == (3, RULE)
    assert proposal.stats[0, :, 7].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.0])


@pytest.mark.parametrize("estimate", [0.0, -1.0, math.nan])
def test_an_estimate_that_is_not_positive_stops(backend, estimate):
    proposal = estimated(backend, [1.0, estimate], threshold=1e-9)
    assert (proposal.length.item(), proposal.stop_reason.item()) == (2, RULE)
    assert proposal.stats[0, 1, 7].item() == 2.0**-126


def test_each_slot_asks_its_own_arm(backend):
    """Token level: arm [B, K]; slot 0's arm holds the pre-draft test."""
    rules = StopRules(("fixed_length", {"n": 0}), ("max_confidence", {"threshold": 2.0}))
    none, stops = -1, 1
    arms = torch.tensor([[none, none, stops, none], [0, none, none, none], [none, stops, 0, 0]])
    state = StopState.of(3, rules, slots=4)
    state.arm.copy_(arms)
    rng, proposal = RngState.of([1, 2, 3]), Proposal.empty(3, 4, 2)
    proposal.reset(rng, rules, state, backend=backend)
    for _ in range(4):
        draft_step(
            torch.tensor([EVEN] * 3), proposal, None, rng, rules=rules, state=state,
            backend=backend,
        )  # fmt: skip
    assert proposal.length.tolist() == [3, 0, 2]
    assert proposal.stop_reason.tolist() == [RULE, PRE_DRAFT, RULE]
