"""Hedges over stop rules: what a draft says of every rule, by hand and unbiased over the draw."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import raw
from helpers.episodes import choose, teach
from helpers.mutants import Edit, Reference

from tapout_kernels import BanditState, StopRules, StopState
from tapout_kernels.reference.stats import ENTROPY, TOP1_PROB
from tapout_kernels.reference.stop import MAX_LENGTH, PRE_DRAFT, RULE

K = 4
RULES = StopRules(
    ("fixed_length", {"n": 1}), ("fixed_length", {"n": 3}), ("max_confidence", {"threshold": 0.5}),
    ("fixed_length", {"n": 9}),
)  # fmt: skip
PROB = [0.1, 0.2, 0.3, 0.4]


def bandit_of(rows: int, rules: StopRules = RULES, prob: list[float] = PROB, **settings):
    """A bandit whose rows have all been drawn from ``prob``."""
    settings = {"policy": "hedge", "reward": "simple", **settings}
    bandit = BanditState.create(len(rules), slots=K, rows=rows, **settings)
    bandit.arm_prob.copy_(torch.tensor(prob, dtype=torch.float64).expand(rows, -1))
    return bandit


def stats_of(top1: list[float], batch: int = 1, entropy: float = 0.0) -> torch.Tensor:
    stats = torch.zeros(batch, K, 8)
    stats[..., TOP1_PROB], stats[..., ENTROPY] = torch.tensor(top1), entropy
    return stats


def learn(
    call: raw.Call, bandit: BanditState, arms: list[int], *outcome: list[int], reason: int,
    rules: StopRules = RULES, state: StopState | None = None, **given: torch.Tensor,
) -> list[float]:  # fmt: skip
    """The first group's ``reward_sq`` after a round of every row: accepted, drafted."""
    state = state or StopState.of(len(arms), rules)
    given = {"stats": stats_of([0.9, 0.8, 0.3, 0.2], len(arms)), **given}
    teach(call, bandit, torch.tensor(arms).int(), *outcome, reason=reason, rule_kind=rules.kind,
          rule_param=rules.param, memory=state.memory, **given)  # fmt: skip
    return bandit.reward_sq[0].tolist()


# ---- by hand -------------------------------------------------------------------------------------


def check_stopped(call: raw.Call) -> None:
    """3 drafted, 2 accepted. Stops 1, 3, 3 (.3 < .5) and beyond: as long are 1, .9, .9.

    Losses 1 - 1/4, 1 - 2/4, 1 - 2/4; the longest was not seen.
    """
    bandit = bandit_of(1)
    found = learn(call, bandit, [1], [2], [3], reason=RULE)
    assert found == pytest.approx([0.75, 0.5 / 0.9, 0.5 / 0.9, 0.0], rel=1e-12)
    assert bandit.count.tolist() == [[0.0, 1.0, 0.0, 0.0]], "one arm ran"
    assert bandit.reward_sum.tolist() == [[0.0, 0.5, 0.0, 0.0]]
    assert bandit.tokens.tolist() == [[0.0, 3.0, 0.0, 0.0]]


def test_a_draft_that_a_rule_stopped(backend):
    check_stopped(raw.caller(backend))


def test_a_short_draft_says_nothing_of_longer_rules(backend):
    found = learn(raw.caller(backend), bandit_of(1), [0], [1], [1], reason=RULE)
    assert found == pytest.approx([0.75, 0.0, 0.0, 0.0], rel=1e-12)


def check_cut(call: raw.Call) -> None:
    """A limit of 3 ended it, all accepted: rule 3, which would have gone on, ends there as well."""
    found = learn(call, bandit_of(1), [3], [3], [3], reason=MAX_LENGTH)
    assert found == pytest.approx([0.75, 0.25 / 0.9, 0.25 / 0.9, 0.25 / 0.4], rel=1e-12)


def test_a_draft_that_was_cut_short(backend):
    check_cut(raw.caller(backend))


def test_who_uses_every_slot_has_been_seen_by_whoever_does(backend):
    """K = 4 drafts by a rule: rule 3 is judged though its own limit is further on."""
    rules = StopRules(("fixed_length", {"n": 4}), ("fixed_length", {"n": 9}))
    bandit = bandit_of(1, rules, [0.25, 0.75])
    found = learn(raw.caller(backend), bandit, [0], [2], [4], reason=RULE, rules=rules)
    assert found == pytest.approx([0.5, 0.5], rel=1e-12)


def test_a_rule_that_refuses_to_draft_loses_everything(backend):
    rules = StopRules(("fixed_length", {"n": 0}), ("fixed_length", {"n": 2}))
    call, prob = raw.caller(backend), [0.25, 0.75]
    bandit = bandit_of(1, rules, prob)
    assert learn(call, bandit, [1], [2], [2], reason=RULE, rules=rules) == pytest.approx(
        [1.0, 0.5 / 0.75], rel=1e-12
    )
    bandit = bandit_of(1, rules, prob)
    assert learn(call, bandit, [0], [0], [0], reason=PRE_DRAFT, rules=rules) == [1.0, 0.0]


def test_the_blended_reward_of_a_shorter_draft(backend):
    """alpha = .5: 1 of 1 is .5/4 + .5, 2 of 3 is .5 2/4 + .5 2/3."""
    bandit = bandit_of(1, reward="blend")
    found = learn(raw.caller(backend), bandit, [1], [2], [3], reason=RULE)
    short, long = 1 - 0.625, 1 - (0.25 + 1 / 3)
    assert found == pytest.approx([short, long / 0.9, long / 0.9, 0.0], rel=1e-12)


def check_regret(call: raw.Call) -> None:
    """epsilon = .1: weights (p - .025) / .9; their loss less each rule's."""
    found = learn(call, bandit_of(1, policy="normalhedge"), [1], [2], [3], reason=RULE)
    losses = [0.75, 0.5 / 0.9, 0.5 / 0.9, 0.0]
    mean = sum((p - 0.025) / 0.9 * loss for p, loss in zip(PROB, losses, strict=True))
    assert found == pytest.approx([mean - loss for loss in losses], rel=1e-12)


def test_normalhedge_adds_up_regrets(backend):
    check_regret(raw.caller(backend))


def check_memory(call: raw.Call) -> None:
    """H = 1, gamma = .25: 1 - .5 is below lambda in row 1 alone: the rule stops there at once.

    Row 0 moved its lambda after the rounds were read, and not before.
    """
    rules = StopRules(("adaedl", {"gamma": 0.25}), ("fixed_length", {"n": 3}))
    state = StopState.of(2, rules)
    state.memory[:, 0, 0] = torch.tensor([0.499, 0.501])
    bandit = bandit_of(2, rules, [0.5, 0.5])
    learn(call, bandit, [0, 1], [0, 3], [3, 3], reason=MAX_LENGTH, rules=rules, state=state,
          stats=stats_of([0.9] * K, 2, entropy=1.0))  # fmt: skip
    # Row 0, none of 3 accepted: adaedl goes on (as long: .5), the other stops (as long: 1).
    # Row 1, 3 of 3: adaedl stops after 1 (as long: 1), the other after 3 (as long: .5).
    assert bandit.reward_sq[0].tolist() == pytest.approx(
        [1 / 0.5 + 0.75, 1.0 + 0.25 / 0.5], rel=1e-12
    )
    assert state.memory[0, 0, 0] != 0.499


def test_every_rule_has_its_own_memory(backend):
    check_memory(raw.caller(backend))


def test_rounds_before_the_discount_keep_less(backend):
    bandit = bandit_of(2, discount=0.5)
    bandit.reward_sq.fill_(8.0)
    found = learn(raw.caller(backend), bandit, [1, 0], [2, 1], [3, 1], reason=RULE)
    expected = [3.125, 2 + 0.25 / 0.9, 2 + 0.25 / 0.9, 2.0]
    assert found == pytest.approx(expected, rel=1e-12)


# ---- unbiased ------------------------------------------------------------------------------------


STOPPED_AT = (1, 3, 3, K)  # by their rules, on the statistics of ``learn``
REFUSING = StopRules(*(("fixed_length", {"n": n}) for n in (0, 2, 4, 3)))


def bias(call: raw.Call, rules: StopRules, stops: tuple, limit: int, accepted: int) -> float:
    """The largest difference of an expected estimate from the loss; every draw is enumerated."""
    total = torch.zeros(len(rules), dtype=torch.float64)
    for arm, chance in enumerate(PROB):
        length = min(stops[arm], limit)
        endless = arm == 3 and stops[arm] == K
        reason = MAX_LENGTH if endless or length < stops[arm] else RULE
        reason = PRE_DRAFT if stops[arm] == 0 else reason
        bandit = bandit_of(1, rules)
        learn(call, bandit, [arm], [min(accepted, length)], [length], reason=reason, rules=rules)
        total += chance * bandit.reward_sq[0]
    losses = [1 - min(accepted, stop, limit) / K for stop in stops]
    return (total - torch.tensor(losses, dtype=torch.float64)).abs().max().item()


@pytest.mark.parametrize("accepted", [0, 1, 2, 4])
@pytest.mark.parametrize("limit", [4, 3, 2, 1, 0])
@pytest.mark.sliced(4)
def test_estimates_are_unbiased_over_the_draw(backend, limit, accepted):
    call = raw.caller(backend)
    assert bias(call, RULES, STOPPED_AT, limit, accepted) < 1e-12
    assert bias(call, REFUSING, (0, 2, 4, 3), limit, accepted) < 1e-12


# ---- the weights ---------------------------------------------------------------------------------


def test_hedge_has_a_rate_of_its_own(backend):
    """n = 4, t = 5: eta = sqrt(ln 2 / 5), whatever the number of arms beside."""
    bandit = BanditState.create(2, policy="hedge", rows=1)
    bandit.count.copy_(torch.tensor([[3.0, 1.0]]))
    bandit.reward_sq.copy_(torch.tensor([[2.0, 4.0]]))
    choose(raw.caller(backend), bandit)
    share = 1 / (1 + math.exp(-2 * math.sqrt(math.log(2) / 5)))
    assert bandit.arm_prob[0].tolist() == pytest.approx([share, 1 - share], rel=1e-13)


def root_of(squares: list[float]) -> float:
    """c of mean exp(x / 2c) = e, by bisection."""
    low, high = 1e-9 * max(squares), max(squares)
    for _ in range(200):
        middle = (low + high) / 2
        terms = [x / (2 * middle) for x in squares]
        most = max(terms)
        log_mean = most + math.log(sum(math.exp(t - most) for t in terms) / len(terms))
        low, high = (middle, high) if log_mean > 1 else (low, middle)
    return low


def check_normal_weights(call: raw.Call, regrets: list[float]) -> None:
    bandit = BanditState.create(len(regrets), policy="normalhedge", rows=1, epsilon=0.0)
    bandit.reward_sq.copy_(torch.tensor([regrets], dtype=torch.float64))
    choose(call, bandit)
    above = [max(regret, 0.0) for regret in regrets]
    weights = [1.0] * len(regrets)
    if any(above):
        c = root_of([r * r for r in above])
        most = max(above) ** 2
        weights = [r / c * math.exp((r * r - most) / (2 * c)) for r in above]
    expected = [w / sum(weights) for w in weights]
    assert bandit.arm_prob[0].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)


REGRETS = (
    [2.0, 1.0, -3.0], [1.0, 1.0, -1.0], [5.0, 4.9, 4.8], [-1.0, -2.0, 0.0], [1e-9, -1.0, 1e-10],
    [1e6, 9e5, -1e8, 3.0], [1e150, 5e149, 0.0], [3.0] + [2.9] * 20 + [-1.0] * 100, [0.0], [7.0],
)  # fmt: skip


@pytest.mark.parametrize("regrets", REGRETS, ids=range(len(REGRETS)))
def test_normalhedge_solves_for_its_scale(backend, regrets):
    """After a million rounds too: nothing overflows."""
    check_normal_weights(raw.caller(backend), regrets)


# ---- mutants -------------------------------------------------------------------------------------


def check_unbiased(call: raw.Call) -> None:
    for limit in (4, 3, 2):
        assert bias(call, RULES, STOPPED_AT, limit, 2) < 1e-12


MUTANTS = {
    "only what was seen is scored": (check_unbiased, Edit(
        "hedge.py", "loss / torch.where(chance > 0, chance, 1.0)", "loss")),
    "divided by the probability of the rule itself": (check_unbiased, Edit(
        "hedge.py", "torch.where(as_long, prob[:, None, :], 0.0)",
        "torch.diag_embed(prob) * as_long")),
    "rules as long do not count": (check_unbiased, Edit(
        "hedge.py", "stops[:, None, :] >= stops[:, :, None]",
        "(stops[:, None, :] > stops[:, :, None]) | torch.eye(stops.shape[1], dtype=torch.bool)")),
    "a cut draft says nothing of longer rules": (check_cut, Edit(
        "hedge.py", "cut | (stops <= drafted)", "stops <= drafted")),
    "longer rules take part in what they did not see": (check_stopped, Edit(
        "hedge.py", "cut | (stops <= drafted)", "chance > 0")),
    "a rule is judged by the whole draft": (check_stopped, Edit(
        "hedge.py", "own = torch.minimum(stops, drafted)", "own = drafted.expand_as(stops)")),
    "memories move before they are read": (check_memory, Edit(
        "bandit_update.py", "memory[who], said)", "memory[who] * 1.01, said)")),
    "the memory of another row": (check_memory, Edit(
        "bandit_update.py", "memory[who], said)", "memory[who.flip(0)], said)")),
    "regrets against what was played": (check_regret, Edit(
        "hedge.py", "(prob - epsilon / arms) / (1 - epsilon)", "prob")),
    "a scale that stops too soon": (
        lambda call: check_normal_weights(call, [2.0, 1.0, -3.0]),
        Edit("weights.py", "NEWTON_STEPS = 12", "NEWTON_STEPS = 1")),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_hedges_are_seen(name):
    check, edit = MUTANTS[name]
    check(raw.caller_of(Reference().ops))
    with pytest.raises(AssertionError):
        check(raw.caller_of(Reference(edit).ops))


# ---- arguments -----------------------------------------------------------------------------------


def test_hedges_need_the_rules():
    from tapout_kernels import Proposal, Verdict, bandit_update

    bandit, arm = bandit_of(1), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="bandit_update: rules must be given with hedge, got None"):
        bandit_update(bandit, arm, Proposal.empty(1, K), Verdict.empty(1, K))
    assert not bandit.count.any()


@pytest.mark.parametrize("name", ["rule_kind", "memory"])
def test_raw_hedges_need_them_too(backend, name):
    bandit = bandit_of(1)
    with pytest.raises(RuntimeError, match=f"bandit_update: {name} must be a Tensor"):
        teach(raw.caller(backend), bandit, torch.zeros(1).int(), [1], [1],
              **{"rule_kind": RULES.kind, "rule_param": RULES.param,
                 "memory": StopState.of(1, RULES).memory, name: None})  # fmt: skip
    assert not bandit.count.any()
