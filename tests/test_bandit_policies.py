"""Policies after BanditSpec and Not-a-Bandit: worked out by hand."""

from __future__ import annotations

import pytest
import torch
from helpers import raw
from helpers.episodes import choose, teach
from helpers.mutants import Edit, Reference
from test_bandit import known

from tapout_kernels import (
    BanditState,
    Proposal,
    RngState,
    SamplingParams,
    StopRules,
    StopState,
    bandit_update,
    verify,
)

# ---- ucbspec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "sums", "best"), [
    ("ucbspec", [0.8, 5.49], 0), ("ucbspec", [0.8, 5.85], 1), ("ucb1", [0.8, 5.49], 1),
])  # fmt: skip
def test_ucbspec_by_hand(backend, policy, sums, best):
    """n = 4 and 9, t = 14, A = 2, delta = .1: ln(20 * 196) = 8.27385.

    Bonuses sqrt(5)/8 sqrt(1 + 2 (8.27385 + .80472)) = 1.22338 and
    sqrt(10)/18 sqrt(1 + 2 (8.27385 + 1.15129)) = .78273; over the total count they would be equal.
    Means .2 and .61: 1.42338 and 1.39273; .65: 1.43273.  ucb1: 1.34867 and 1.37577.
    """
    assert policy_by_hand(raw.caller(backend), policy, sums) == best


def policy_by_hand(call: raw.Call, policy: str, sums: list[float]) -> int:
    bandit = known([4.0, 9.0], sums, policy=policy, reward="simple", slots=4)
    arm = choose(call, bandit)
    assert bandit.count.tolist() == [[4.0, 9.0]], "a choice is no pull yet"
    return arm.item()


def test_ucbspec_pending_pulls(backend):
    """t = 2 + 4, A = 2: ln(20 * 36) = 6.57925; bonuses of n = 1, 2, 3: 2.72504, 1.69136, 1.31423.

    Means 0 and .9: 2.725 and 3.625, arm 1, then 2.591; arm 0, then 1.691; arm 1, then 2.214.
    """
    bandit = known([1.0, 1.0], [0.0, 0.9], policy="ucbspec")
    assert choose(raw.caller(backend), bandit, 4).tolist() == [1, 0, 1, 1]


def test_ucbspec_tries_every_arm_once_lowest_first(backend):
    bandit = known([0.0, 3.0, 0.0], [0.0, 3.0, 0.0], policy="ucbspec")
    assert choose(raw.caller(backend), bandit, 2).tolist() == [0, 2]


# ---- metasd: ucb1 with the reward overlap --------------------------------------------------------


def check_overlap(call: raw.Call) -> None:
    """K = 4. Row 0: (.5 + .25) / 4 of two drafts; row 1: .75 / 4, the second was not verified.

    A third entry, beyond the draft, is nobody's; neither is the accepted number.
    """
    bandit = BanditState.create(2, slots=4, policy="metasd")
    overlap = torch.tensor([[0.5, 0.25, 0.5, -1.0], [0.75, -1.0, -1.0, -1.0]])
    teach(call, bandit, torch.tensor([1, 0]).int(), [0, 1], [2, 3], overlap=overlap)
    assert bandit.reward_sum.tolist() == [[0.1875, 0.1875]]
    assert bandit.reward_sq.tolist() == [[0.1875**2, 0.1875**2]]
    teach(call, bandit, torch.tensor([1, 0]).int(), [0, 0], [0, 0], overlap=overlap)
    assert bandit.reward_sum.tolist() == [[0.1875, 0.1875]], "nothing was drafted"
    assert bandit.count.tolist() == [[2.0, 2.0]]


def test_overlap_by_hand(backend):
    check_overlap(raw.caller(backend))


def test_a_hedge_sums_the_overlap_of_a_shorter_draft(backend):
    rules = StopRules(("fixed_length", {"n": 1}), ("fixed_length", {"n": 2}))
    bandit = BanditState.create(2, slots=4, policy="hedge", reward="overlap", rows=1)
    bandit.arm_prob.fill_(0.5)
    overlap = torch.tensor([[0.5, 0.25, -1.0, -1.0]])
    teach(raw.caller(backend), bandit, torch.tensor([1]).int(), [0], [2], overlap=overlap,
          rule_kind=rules.kind, rule_param=rules.param,
          memory=StopState.of(1, rules).memory)  # fmt: skip
    assert bandit.reward_sq.tolist() == [[1 - 0.125, (1 - 0.1875) / 0.5]]


def test_overlap_is_what_verify_says():
    """And a verdict without it is refused."""
    rng, bandit = RngState.of(range(3)), BanditState.create(2, slots=4, policy="metasd")
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
    tokens = logits.argmax(-1)
    draft = Proposal.from_tokens(tokens, rng, logits=logits, sampling=SamplingParams())
    target, arm = torch.cat([logits, logits[:, :1]], 1) * 0.5, torch.tensor([0, 1, 1]).int()
    plain = verify(target, draft, SamplingParams(), rng)
    with pytest.raises(ValueError, match="verdict must have overlap"):
        bandit_update(bandit, arm, draft, plain)
    assert not bandit.count.any()
    verdict = verify(target, draft, SamplingParams(), rng, overlap=True)
    bandit_update(bandit, arm, draft, verdict)
    expected = torch.minimum(logits.softmax(-1), target[:, :4].softmax(-1)).sum(-1).mean(-1)
    found = bandit.reward_sum[0]
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert found[1].item() == pytest.approx(expected[1:].sum().item(), rel=1e-5)


MUTANTS = {
    "the mean over the draft": "torch.where(inside, known, 0.0)) / drafted",
    "what lies beyond the draft": "known.expand_as(inside)) / slots",
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_overlaps_are_seen(name):
    edit = Edit("bandit.py", "torch.where(inside, known, 0.0)) / slots", MUTANTS[name])
    check_overlap(raw.caller_of(Reference().ops))
    with pytest.raises(AssertionError):
        check_overlap(raw.caller_of(Reference(edit).ops))


# ---- mutants -------------------------------------------------------------------------------------


def test_the_total_count_in_the_bonus_is_seen():
    """As the paper's released code has it: every arm's bonus is the same, the best mean wins."""
    line = "0.5 * ((1 + pulls).sqrt() / pulls)"
    wrong = Reference(Edit("bandit.py", line, line.replace("pulls", "log_t.exp()")))
    assert policy_by_hand(raw.caller_of(wrong.ops), "ucbspec", [0.8, 5.49]) == 1
