"""Hedges over drafters: by hand, against loops over Python numbers, mutants."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.mutants import Edit, replaced
from helpers.naive_hedge import NaiveHedge
from torch.fx.experimental.proxy_tensor import make_fx

import tapout_kernels as tk
from tapout_kernels import BanditState, DrafterRing, full_information

Observe = Callable[..., None]
OBSERVE: Observe = tk.observe_drafters
HEDGES = ("hedge", "normalhedge")


def column(*gammas: float) -> torch.Tensor:
    """One token of one row, [1, A, 1]."""
    return torch.tensor([gammas], dtype=torch.float64)[..., None]


def counts(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


# ---- by hand -------------------------------------------------------------------------------------


def check_a_position_waits_for_its_tokens(observe: Observe) -> None:
    """K = 2, gammas 1/2, 1/2, 1 of the first: AL = 1 + 1/2 + 1/4, then 1 + 1/2 + 1/2."""
    bandit = BanditState.create(2, policy="hedge", rows=1)
    ring = DrafterRing.empty(1, 2, 2)
    losses = []
    for gamma in (0.5, 0.5, 1.0):
        observe(bandit, ring, column(gamma, 0.0), counts(1))
        losses.append(bandit.reward_sq.tolist()[0])
    first, second = 1 - 1.75 / 3, 1 - 2 / 3
    assert losses[0] == [0.0, 0.0]
    assert losses[1] == pytest.approx([first, 2 / 3], rel=1e-15)
    assert losses[2] == pytest.approx([first + second, 4 / 3], rel=1e-15)
    assert bandit.count.tolist() == [[1.0, 1.0]], "two positions, shared by two arms"
    mean = (bandit.reward_sum / bandit.count).tolist()[0]
    assert mean == pytest.approx([1 - (first + second) / 2, 1 / 3], rel=1e-15)


def test_a_position_waits_for_its_tokens():
    check_a_position_waits_for_its_tokens(OBSERVE)


def check_regret(observe: Observe) -> None:
    """Weights (p - .1) / .8 of the draw, not the arm's probability: .75 and .25."""
    bandit = BanditState.create(2, policy="normalhedge", rows=1, epsilon=0.2)
    bandit.arm_prob.copy_(torch.tensor([[0.7, 0.3]], dtype=torch.float64))
    observe(bandit, DrafterRing.empty(1, 2, 1), column(1.0, 0.0), counts(1))
    own = 0.75 * 0 + 0.25 * 0.5
    assert bandit.reward_sq[0].tolist() == pytest.approx([own - 0, own - 0.5], rel=1e-15)


def test_normalhedge_adds_up_regrets():
    check_regret(OBSERVE)


def test_what_is_no_chance_is_none():
    bandit = BanditState.create(4, policy="hedge", rows=1)
    gamma = column(float("nan"), -1.0, 1 + 1e-7, float("inf"))
    OBSERVE(bandit, DrafterRing.empty(1, 4, 1), gamma, counts(1))
    assert bandit.reward_sq.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def check_new_request(observe: Observe) -> None:
    """What the last request left is no part of the next one's first position."""
    ring = sys.modules[observe.__module__].DrafterRing.empty(2, 1, 2)
    bandit, one = BanditState.create(1, policy="hedge", rows=2), counts(1, 1)
    chance = torch.ones(2, 1, 1, dtype=torch.float64)
    observe(bandit, ring, chance, one)
    ring.reset_rows(torch.tensor([True, False]))
    observe(bandit, ring, chance, one)
    assert bandit.count.tolist() == [[1.0]]


def test_a_new_request_begins_with_nothing():
    check_new_request(OBSERVE)


# ---- against loops -------------------------------------------------------------------------------


def told(observe: Observe, policy: str, seed: int, discount: float = 1.0) -> None:
    """Rounds of random sizes; rows that are not live or have no group, in any order of rows."""
    generator = np.random.default_rng(seed)
    arms, slots, batch, groups, rows = 3, int(generator.integers(1, 5)), 4, 2, 6
    epsilon = 0.1 if policy == "normalhedge" else 0.0
    bandit = BanditState.create(arms, groups, policy=policy, rows=rows, discount=discount,
                                epsilon=epsilon)  # fmt: skip
    ring = DrafterRing.empty(rows, arms, slots)
    naive = [
        NaiveHedge(arms, slots, discount, epsilon if policy == "normalhedge" else None)
        for _ in range(groups)
    ]
    for _ in range(12):
        drawn = generator.dirichlet(np.ones(arms), rows)
        bandit.arm_prob.copy_(torch.from_numpy(epsilon / arms + (1 - epsilon) * drawn))
        chosen = generator.permutation(rows + 1)[:batch]  # the last one is no row
        gamma = generator.random((batch, arms, slots + 1))
        gamma[generator.random(gamma.shape) < 0.3] = 1.0
        count, live = generator.integers(-1, slots + 3, batch), generator.random(batch) < 0.8
        group = chosen % (groups + 1)  # as is the last group
        observe(
            bandit, ring, torch.from_numpy(gamma), torch.from_numpy(count).int(),
            torch.from_numpy(group).int(), torch.from_numpy(live), torch.from_numpy(chosen).int(),
        )  # fmt: skip
        for b in range(batch):
            if live[b] and chosen[b] < rows and group[b] < groups:
                new = gamma[b].T[: min(max(count[b], 0), slots + 1)].tolist()
                naive[group[b]].tell(int(chosen[b]), new, bandit.arm_prob[chosen[b]].tolist())
        if generator.random() < 0.3:
            gone = int(generator.integers(rows))
            ring.reset_rows(torch.arange(rows) == gone)
            for each in naive:
                each.forget(gone)
    for index, expected in enumerate(naive):
        for name in ("count", "reward_sum", "reward_sq"):
            # At most some 200 sums of numbers below 1: each rounds by 2**-53 of at most 200.
            assert getattr(bandit, name)[index].tolist() == pytest.approx(
                getattr(expected, name), rel=0, abs=200 * 200 * 2**-53
            ), name
    assert bandit.count.min() > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("policy", HEDGES)
def test_equals_loops_over_python_numbers(policy, discount, seed):
    told(OBSERVE, policy, seed, discount)


@pytest.mark.parametrize("policy", HEDGES)
def test_a_round_at_once_is_its_tokens_one_by_one(policy):
    """Bit for bit with one row, for the tables are discounted by 1."""
    generator = torch.Generator().manual_seed(1)
    gamma = torch.rand(1, 3, 5, generator=generator, dtype=torch.float64)
    found = []
    for widths in ((5,), (1, 1, 1, 1, 1), (2, 3)):
        bandit = BanditState.create(3, policy=policy, rows=1)
        bandit.arm_prob.fill_(1 / 3)
        ring = DrafterRing.empty(1, 3, 2)
        for part, width in zip(gamma.split(widths, -1), widths, strict=True):
            OBSERVE(bandit, ring, part, counts(width))
        found.append(bandit.reward_sq[0].tolist() + ring.gamma.flatten().tolist())
    assert found[0] == pytest.approx(found[1], abs=1e-15)
    assert found[0] == pytest.approx(found[2], abs=1e-15)


def test_it_is_a_graph_of_tensors():
    """Traced once, without a look at a value, and run on other numbers."""
    bandit, ring = BanditState.create(2, policy="normalhedge", rows=2), DrafterRing.empty(2, 2, 3)
    twin = BanditState.create(2, policy="normalhedge", rows=2), DrafterRing.empty(2, 2, 3)
    gamma, count = torch.zeros(2, 2, 4, dtype=torch.float64), counts(0, 0)
    live = torch.tensor([True, True])

    def run() -> torch.Tensor:
        OBSERVE(bandit, ring, gamma, count, live=live)
        return torch.zeros(())

    graph = make_fx(run)()
    for step in range(3):
        gamma.copy_(torch.rand(gamma.shape, dtype=torch.float64))
        count.copy_(counts(step + 1, 4 - step))
        live.copy_(torch.tensor([True, step != 1]))
        graph()
        OBSERVE(*twin, gamma, count, live=live)
    assert bandit.count.sum() > 0
    assert torch.equal(bandit.reward_sq, twin[0].reward_sq)
    assert torch.equal(ring.gamma, twin[1].gamma)


@pytest.mark.gpu
def test_a_captured_round_never_waits_for_the_gpu():
    bandit, ring, gamma = gpu_round()
    count = torch.zeros(2, dtype=torch.int32, device="cuda")
    OBSERVE(bandit, ring, gamma, count)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        OBSERVE(bandit, ring, gamma, count)
    torch.cuda.set_sync_debug_mode("error")
    try:
        OBSERVE(bandit, ring, gamma, count)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = gpu_round("cpu")
    for seed in range(4):
        drawn = torch.rand(2, 2, 4, dtype=torch.float64, generator=torch.manual_seed(seed))
        new = counts(seed, 4 - seed)
        gamma.copy_(drawn)
        count.copy_(new)
        graph.replay()
        OBSERVE(*expected[:2], drawn, new)
    # each number is rounded on its own, on both sides
    torch.testing.assert_close(bandit.reward_sq.cpu(), expected[0].reward_sq, rtol=1e-14, atol=0)
    assert torch.equal(ring.seen.cpu(), expected[1].seen)
    assert bandit.count.sum() > 0


def gpu_round(device: str = "cuda") -> tuple[BanditState, DrafterRing, torch.Tensor]:
    bandit = BanditState.create(2, policy="normalhedge", rows=2, device=device)
    bandit.arm_prob.fill_(0.5)
    gamma = torch.zeros(2, 2, 4, dtype=torch.float64, device=device)
    return bandit, DrafterRing.empty(2, 2, 3, device), gamma


# ---- mutants -------------------------------------------------------------------------------------


def mutant(*edits: Edit) -> ModuleType:
    """A copy of the module, some lines replaced."""
    spec = importlib.util.find_spec("tapout_kernels.full_information")
    with open(spec.origin) as file:
        text = file.read()
    for edit in edits:
        text = replaced(text, edit)
    module = ModuleType("tapout_kernels.mutant")
    module.__package__ = "tapout_kernels"
    sys.modules[module.__name__] = module
    exec(compile(text, module.__name__, "exec"), module.__dict__)
    return module


def edit(line: str, becomes: str) -> Edit:
    return Edit("full_information.py", line, becomes)


def check_random(observe: Observe) -> None:
    told(observe, "hedge", 2)


def check_discount(observe: Observe) -> None:
    told(observe, "hedge", 0, 0.9)


MUTANTS = {
    "positions are judged before their tokens are known": (
        check_a_position_waits_for_its_tokens,
        edit("seen[:, None] + columns + 1 >= slots", "seen[:, None] >= 0"),
    ),
    "and so after a reset": (
        check_new_request, edit("self.seen.masked_fill_(mask, 0)", "pass")),
    "a token is judged without those before it": (
        check_a_position_waits_for_its_tokens,
        edit("survival = survival * chances", "survival = chances")),
    "from one token earlier": (
        check_a_position_waits_for_its_tokens,
        edit("chances[..., k : k + columns]", "chances[..., k - 1 : k - 1 + columns]")),
    "the token of the target alone is left out": (
        check_a_position_waits_for_its_tokens, edit("length / (slots + 1)", "length / slots")),
    "regret against what was drawn with epsilon": (
        check_regret, edit("(prob - epsilon / bandit.arms) / (1 - epsilon)", "prob")),
    "losses for regrets": (check_regret, edit("own[:, None] - loss", "loss - own[:, None]")),
    "rows that are not live learn": (
        check_random, edit("learns & state.known & live", "learns & state.known")),
    "columns beyond the verified ones are read": (
        check_random, edit("(columns < verified[:, None]) & ", "")),
    "the ring moves on by one token a round": (
        check_random, edit("last = verified[:, None] +", "last = 0 * verified[:, None] + 1 +")),
    "one discount a round": (check_discount, edit(
        "torch.where(here, keep * discount, keep)", "torch.where(here, discount, keep)")),
    "no discount inside a round": (
        check_discount, edit("gain * discount + credits", "gain + credits")),
    "every arm has had the whole position": (
        check_a_position_waits_for_its_tokens, edit("share = 1 / bandit.arms", "share = 1.0")),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name):
    check, wrong = MUTANTS[name]
    module = mutant(wrong)
    with pytest.raises(AssertionError):
        check(module.observe_drafters)


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "message"), [
    ({"policy": "exp3"}, "bandit must be one of hedge, normalhedge, got 'exp3'"),
    ({"arms": 3}, "ring must be of 2 drafters, got 3"),
    ({"ring_rows": 2}, "ring must have 1 rows, got 2"),
    ({"gamma": torch.zeros(1, 2, 1)}, "gamma must be float64, got float32"),
    ({"gamma": [0.5]}, "gamma must be a Tensor, got list"),
    ({"gamma": torch.zeros(1, 3, 1).double()}, r"gamma must be \[1, 2, N\], got \[1, 3, 1\]"),
    ({"count": torch.ones(1)}, "count must be int32, got float32"),
    ({"count": counts(1, 1)}, r"count must be \[1\], got \[2\]"),
    ({"live": counts(1)}, "live must be bool, got int32"),
    ({"rows": torch.zeros(1)}, "rows must be int32, got float32"),
])  # fmt: skip
def test_errors_say_what_was_expected(wrong, message):
    wrong = {"policy": "hedge", "arms": 2, "ring_rows": 1, **wrong}
    bandit = BanditState.create(2, policy=wrong.pop("policy"), rows=1)
    ring = DrafterRing.empty(wrong.pop("ring_rows"), wrong.pop("arms"), 1)
    given = {"gamma": column(1.0, 1.0), "count": counts(1), **wrong}
    with pytest.raises((TypeError, ValueError), match=f"observe_drafters: {message}"):
        OBSERVE(bandit, ring, **given)
    assert bandit.count.sum() == 0
    assert ring.seen.sum() == 0


def test_a_ring_of_nothing_is_refused():
    with pytest.raises(ValueError, match="rows, drafters, slots must be >= 1, got 1, 0, 2"):
        DrafterRing.empty(1, 0, 2)


def test_the_module_is_the_public_one():
    assert full_information.observe_drafters is tk.observe_drafters
