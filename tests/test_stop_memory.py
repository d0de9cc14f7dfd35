"""Stop rules that learn from rounds: their memory by hand, when it moves, and what it leads to."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import raw
from helpers.learning import (
    EPISODES,
    MAX_LENGTH,
    NONE,
    PRE_DRAFT,
    RULE,
    Learner,
    Round,
    check_episode,
)
from helpers.rounds import drafted

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState, SamplingParams, StopRules, StopState
from tapout_kernels.reference.stop import STOP_RULES
from tapout_kernels.testing.inputs import LEARNING, remembered

LEARNERS = {rule.name for rule in STOP_RULES if rule.update is not None}
EVEN, SURE = [0.0, 0.0], [200.0, 0.0]  # H = ln 2, H = 0
SLOTS = 4


@pytest.mark.parametrize("episode", EPISODES)
@pytest.mark.sliced(3)
def test_memory_by_hand(backend, episode):
    check_episode(raw.caller(backend), episode)


def test_every_rule_that_learns_has_an_episode():
    assert {episode.rule for episode in EPISODES.values()} >= LEARNERS


# Arguments of a round that nobody learns from: dead, not verified, or of no arm of the table.
SILENT = {
    "dead": {"live": torch.tensor([False])},
    "not verified": {"status": torch.tensor([1], dtype=torch.int32)},
    "another group": {"group": torch.tensor([7], dtype=torch.int32)},
    "no arm": {"arm": torch.tensor([-1], dtype=torch.int32)},
    "arm too high": {"arm": torch.tensor([len(LEARNING)], dtype=torch.int32)},
    "no row": {"rows": torch.tensor([1], dtype=torch.int32)},
}


@pytest.mark.parametrize("why", SILENT)
@pytest.mark.parametrize("rule", sorted(LEARNERS))
@pytest.mark.sliced(4)
def test_what_teaches_nothing_is_not_remembered(backend, rule, why):
    learner = Learner(raw.caller(backend), StopRules(rule, rule), SLOTS)
    before = learner.memory
    learner.learn(round_ := Round(3, 1, (), (5.0, 6.0, 7.0)), **SILENT[why])
    learner.learn(Round(0, 0, (), reason=PRE_DRAFT), **SILENT[why])
    assert learner.memory == before
    learner.learn(round_)
    assert learner.memory != before, "the same round, told to its arm, teaches"


@pytest.mark.parametrize("reason", [NONE, MAX_LENGTH, PRE_DRAFT])
@pytest.mark.parametrize("rule", sorted(LEARNERS))
@pytest.mark.sliced(4)
def test_a_round_without_a_draft(backend, rule, reason):
    """Nothing is learnt; hysteresis counts the rounds that it refused itself."""
    learner = Learner(raw.caller(backend), StopRules(rule, rule), SLOTS)
    before = learner.memory[1]
    learner.learn(Round(0, 0, (), reason=reason))
    counted = rule == "hysteresis" and reason == PRE_DRAFT
    assert learner.memory[1] == ([0.0, 0.0, 1.0, 0.0] if counted else before)


def test_token_level_teaches_the_arm_of_the_last_drafted_slot(backend):
    """heuristic in slots 0 and 1, hysteresis in slot 2, gammatune in slot 3."""
    rules = StopRules("heuristic", ("hysteresis", {"alpha": 0.5}), ("gammatune", {"eta": 0.5}))
    learner = Learner(raw.caller(backend), rules, SLOTS, level="token")
    learner.state.arm.copy_(torch.tensor([[0, 0, 1, 2]]))
    heuristic, hysteresis, gammatune = [5.0, 0, 0, 0], [0.0] * 4, [4.0, 4, 0, 0]
    assert learner.memory == [heuristic, hysteresis, gammatune]
    learner.learn(Round(3, 3, (), (2.0, 0.0, 4.0)))  # 1, 1/2, 1/4 + 2: on, as 2 < 2.25 is high
    assert learner.memory == [heuristic, [2.25, 1.0, 0.0, 0.0], gammatune]
    learner.learn(Round(4, 0, ()))
    assert learner.memory == [heuristic, [2.25, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]]
    learner.learn(Round(2, 1, ()))
    assert learner.memory[0] == [4.0, 0.0, 0.0, 0.0]
    learner.state.arm.copy_(torch.tensor([[1, 0, 0, 2]]))
    learner.learn(Round(0, 0, (), reason=PRE_DRAFT))  # refused by slot 0's arm
    assert learner.memory[1] == [2.25, 1.0, 1.0, 0.0]


def test_backends_remember_the_same_bits_over_many_rounds(compiled):
    """Random rounds, some of no use, of every arm with what some rounds had made of it."""
    generator = torch.Generator().manual_seed(3)
    learners = [Learner(raw.caller(name), LEARNING, SLOTS) for name in (compiled, "reference")]
    for learner in learners:
        learner.state.memory.copy_(remembered(1, LEARNING))
    seen = set()
    for number in range(60):
        length, reason = (int(torch.randint(0, 5, (1,), generator=generator)) for _ in range(2))
        accepted = int(torch.randint(0, length + 1, (1,), generator=generator))
        entropies = (3 * torch.rand(SLOTS, generator=generator)).tolist()
        for learner in learners:
            learner.state.arm.fill_(number % len(LEARNING))
            learner.learn(Round(length, accepted, (), tuple(entropies), reason))
        found, expected = (learner.memory for learner in learners)
        assert found == expected, (number, found, expected)
        seen.add(str(expected))
        for name, memory in zip(LEARNING.names, found, strict=True):
            if name in ("gammatune", "gammatune_plus", "heuristic"):
                assert 1 <= memory[0] <= SLOTS, (name, memory)
            if name == "adl":
                assert 1 <= memory[0] <= 3
    assert len(seen) > 30


# ---- what it leads to --------------------------------------------------------------------------


class Request:
    """A request whose draft model says what it is told, and whose verifier accepts a number."""

    def __init__(self, backend: str, rule: str, slots: int = SLOTS, **params: float):
        self.backend, self.slots = backend, slots
        self.rules = StopRules("fixed_length", (rule, params))
        self.state, self.rng = StopState.of(1, self.rules, arm=1), RngState.of(0)
        self.bandit = tk.BanditState.create(2, slots=slots)

    def round(self, row: list[float], accepted: int, limit: int | None = None) -> int:
        """How many tokens were drafted; the round is then learnt from."""
        proposal, verdict = Proposal.empty(1, self.slots, 2), tk.Verdict.empty(1, self.slots)
        table = {"rules": self.rules, "state": self.state}
        room = None if limit is None else torch.tensor([limit], dtype=torch.int32)
        proposal.reset(self.rng, **table, max_length=room, backend=self.backend)
        for _ in range(self.slots):
            tk.draft_step(torch.tensor([row]), proposal, SamplingParams(), self.rng, **table,
                          backend=self.backend)  # fmt: skip
        length = proposal.length.item()
        verdict.num_accepted.fill_(min(accepted, length))
        tk.bandit_update(self.bandit, self.state.arm, proposal, verdict, **table,
                         backend=self.backend)  # fmt: skip
        return length


def test_hysteresis_probes_while_it_is_off(backend):
    """On, it drafts K; off, of every three rounds one, of a token; a sure probe: on again."""
    request = Request(backend, "hysteresis", high=0.5, low=0.25, alpha=1.0, probe_every=3)
    assert [request.round(EVEN, 0) for _ in range(8)] == [4, 0, 0, 1, 0, 0, 1, 0]
    assert [request.round(SURE, 0) for _ in range(4)] == [0, 1, 4, 4]


def test_a_probe_that_finds_no_room_is_tried_again(backend):
    request = Request(backend, "hysteresis", high=0.5, low=0.25, alpha=1.0, probe_every=2)
    assert [request.round(EVEN, 0) for _ in range(2)] == [4, 0]
    assert request.round(EVEN, 0, limit=0) == 0
    assert [request.round(EVEN, 0) for _ in range(3)] == [1, 0, 1]


def test_probes_of_every_round_leave_nothing_refused(backend):
    request = Request(backend, "hysteresis", high=0.5, low=0.25, alpha=1.0, probe_every=1)
    assert [request.round(EVEN, 0) for _ in range(3)] == [4, 1, 1]


@pytest.mark.parametrize(
    ("rule", "params", "lengths"),
    [
        # all accepted four times, then nothing: K = 4
        ("gammatune", {"initial_length": 1, "delta": 1, "eta": 0.5}, [1, 2, 3, 4, 4, 1, 1]),
        ("gammatune_plus", {"initial_length": 1, "delta": 1, "eta": 0.5, "threshold": 0.4},
         [1, 2, 3, 4, 4, 1, 1]),
        ("gammatune_plus", {"initial_length": 3, "threshold": 0.6}, [1, 1, 1, 1, 1, 1, 1]),
        ("heuristic", {"initial_length": 1}, [1, 3, 4, 4, 4, 3, 2]),
        # gen, acc: 1/2, 1/2; 3/4+, equal until the last two rounds
        ("adl", {"delta": 1, "shortest": 1, "longest": 3}, [3, 3, 3, 3, 3, 3, 3]),
        # H = ln 2 of all tokens: above no midpoint of itself
        ("adasd_entropy", {}, [4, 4, 4, 4, 4, 4, 4]),
    ],
)  # fmt: skip
def test_lengths_of_rounds_in_a_row(backend, rule, params, lengths):
    request = Request(backend, rule, **params)
    accepted = [9, 9, 9, 9, 0, 0, 0]
    assert [request.round(EVEN, n) for n in accepted] == lengths


def test_adasd_entropy_stops_between_what_was_accepted_and_what_was_rejected(backend):
    """Sure tokens are accepted, unsure ones not: then an unsure token is the last, a sure not."""
    request = Request(backend, "adasd_entropy")
    assert request.round(EVEN, 0) == 4, "no threshold yet"
    assert request.round(EVEN, 0) == 4, "nothing was accepted yet"
    assert request.round(SURE, 9) == 4
    assert [request.round(EVEN, 0), request.round(SURE, 4), request.round(EVEN, 1)] == [1, 4, 1]


def test_an_early_round_does_not_move_what_another_request_remembers(backend):
    rules = StopRules("heuristic")
    state, rng = StopState.of(2, rules), RngState.of([1, 2])
    bandit = tk.BanditState.create(1, slots=SLOTS)
    proposal, verdict = Proposal.empty(2, SLOTS), tk.Verdict.empty(2, SLOTS)
    proposal.reset(rng, rules, state, live=torch.tensor([True, False]), backend=backend)
    proposal.length.copy_(torch.tensor([3, 3]))
    verdict.num_accepted.copy_(torch.tensor([1, 1]))
    tk.bandit_update(bandit, state.arm, proposal, verdict, rules=rules, state=state,
                     backend=backend)  # fmt: skip
    assert state.memory[:, 0, 0].tolist() == [4.0, 5.0]


# ---- predicted_length --------------------------------------------------------------------------

PREDICTIONS = [-3.0, 0.49, 0.5, 1.49, 1.5, 2.5, 99.0, math.inf, math.nan]
PREDICTED = [0, 0, 1, 1, 2, 3, 3, 3, 3]  # clipped to K = 3; halves round up, NaN is none


@pytest.mark.parametrize("elsewhere", [False, True], ids=["draft_step", "from_tokens"])
def test_predicted_length(backend, elsewhere):
    rules = StopRules("svip", "predicted_length")
    count = len(PREDICTIONS)
    state, rng = StopState.of(count, rules, arm=1), RngState.of(range(count))
    told = {"rules": rules, "state": state, "prediction": torch.tensor(PREDICTIONS)}
    if elsewhere:
        tokens = torch.ones(count, 3, dtype=torch.int64)
        proposal = Proposal.from_tokens(tokens, rng, **told, backend=backend)
    else:
        proposal = Proposal.empty(count, 3, 2)
        proposal.reset(rng, **told, backend=backend)
        for _ in range(3):
            tk.draft_step(torch.tensor([EVEN] * count), proposal, SamplingParams(), rng,
                          rules=rules, state=state, backend=backend)  # fmt: skip
    assert proposal.length.tolist() == PREDICTED
    assert proposal.stop_reason.tolist() == [PRE_DRAFT] * 2 + [RULE] * 6 + [MAX_LENGTH]
    assert state.memory[:, 0].eq(0).all(), "only its own arms are told"


def test_predictions_reach_the_rows_and_arms_that_are_live(backend):
    """Both arms of the rule, the row of state a request has; a dead row keeps the old one."""
    rules = StopRules("predicted_length", "svip", "predicted_length")
    state, rng = StopState.of(4, rules, slots=2), RngState.of(range(4))
    proposal = Proposal.empty(3, 2)
    proposal.reset(
        rng, rules, state, live=torch.tensor([True, False, True]),
        prediction=torch.tensor([1.0, 0.0, 2.0]), rows=torch.tensor([3, 0, 9], dtype=torch.int32),
        backend=backend,
    )  # fmt: skip
    inf = math.inf
    assert state.memory[:, 0, 0].tolist() == [inf, inf, inf, 1.0]
    assert state.memory[:, 2, 0].tolist() == [inf, inf, inf, 1.0]
    assert not state.memory[:, 1].any()
    assert proposal.stop_reason.tolist() == [NONE, 4, 4]


def test_predicted_length_of_one_slot(backend):
    """Token level: slot 1's arm asks the prediction of the round, slot 0's nothing."""
    rules = StopRules("predicted_length")
    state, rng = StopState.of(2, rules, slots=3), RngState.of([1, 2])
    state.arm.copy_(torch.tensor([[-1, 0, -1]] * 2))
    proposal = Proposal.empty(2, 3, 2)
    proposal.reset(rng, rules, state, prediction=torch.tensor([0.0, 3.0]), backend=backend)
    for _ in range(3):
        tk.draft_step(torch.tensor([EVEN] * 2), proposal, SamplingParams(), rng, rules=rules,
                      state=state, backend=backend)  # fmt: skip
    assert proposal.length.tolist() == [2, 3]


def test_a_prediction_and_a_rule_that_reads_it_go_together():
    rules = StopRules("predicted_length")
    state, rng, proposal = StopState.of(1, rules), RngState.of(0), Proposal.empty(1, 2)
    with pytest.raises(ValueError, match="proposal_reset: prediction must be given for an arm"):
        proposal.reset(rng, rules, state)
    with pytest.raises(ValueError, match="proposal_reset: rules must be given with prediction"):
        proposal.reset(rng, prediction=torch.ones(1))
    with pytest.raises(ValueError, match="prediction must be given"):
        Proposal.from_tokens(torch.ones(1, 2, dtype=torch.int64), rng, rules=rules, state=state)
    assert rng.round.tolist() == [0]


# ---- never beyond the limit --------------------------------------------------------------------


def test_no_memory_leads_beyond_the_limit(backend):
    """Hostile memories and parameters: 0 to max_length tokens, and the reason says which."""
    bad = [math.nan, math.inf, -math.inf, -1.0, 0.0, 0.5, 1e30]
    rules = StopRules(*(rule.name for rule in STOP_RULES))
    count = len(rules) * len(bad)
    state, rng = StopState.of(count, rules), RngState.of(range(count))
    state.arm.copy_(torch.arange(count) % len(rules))
    state.memory.copy_(torch.tensor(bad)[torch.arange(count) // len(rules)][:, None, None])
    limit = (torch.arange(count) % 4).int()
    proposal = Proposal.empty(count, 3, 2)
    proposal.reset(rng, rules, state, max_length=limit, prediction=torch.full((count,), 1e30),
                   backend=backend)  # fmt: skip
    for _ in range(3):
        tk.draft_step(torch.tensor([EVEN] * count), proposal, SamplingParams(), rng, rules=rules,
                      state=state, backend=backend)  # fmt: skip
    assert (proposal.length <= limit).all()
    assert (proposal.length >= 0).all()
    assert not proposal.active.any()
    refused = proposal.stop_reason == PRE_DRAFT
    assert (proposal.length[refused] == 0).all()
    greedy = drafted(torch.tensor([EVEN]), 3, RngState.of(0), backend=backend)
    assert greedy.length.tolist() == [3], "without a rule: K"
