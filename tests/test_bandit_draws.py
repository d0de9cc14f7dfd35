"""The bandit's random policies: laws, independence and addresses of what they draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import chi2
from helpers.mutants import Edit, Reference
from helpers.rounds import select

from tapout_kernels import BanditState
from tapout_kernels.reference import bandit as reference
from tapout_kernels.reference.rng import BANDIT, philox4x32, uniform_from_words

LIKELY = 1e-3  # p-values of right programs, at fixed seeds
UNLIKELY = 1e-9  # of wrong ones
MASK = 0xFFFFFFFF


# ---- laws ----------------------------------------------------------------------------------------


def kolmogorov(samples: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """p-value of the Kolmogorov-Smirnov statistic, in Stephens' form."""
    n, found = len(samples), cdf(np.sort(samples))
    edges = np.arange(n + 1) / n
    distance = max((edges[1:] - found).max(), (found - edges[:-1]).max())
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101)))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x])


def beta_cdf(a: float, b: float) -> Callable[[np.ndarray], np.ndarray]:
    """The integral of x^(a-1) (1-x)^(b-1) on a grid too fine to matter, for a, b >= 1."""
    edges = np.linspace(0, 1, 200_001)
    middle = (edges[1:] + edges[:-1]) / 2
    density = np.exp((a - 1) * np.log(middle) + (b - 1) * np.log1p(-middle))
    total = np.concatenate([[0.0], np.cumsum(density)])
    return lambda x: np.interp(x, edges, total / total[-1])


def test_beta_cdf_is_a_binomial_tail():
    """Beta(3, 5) below x: at least 3 of 7 uniforms are."""
    x = np.array([0.1, 0.37, 0.8])
    tail = sum(math.comb(7, j) * x**j * (1 - x) ** (7 - j) for j in range(3, 8))
    np.testing.assert_allclose(beta_cdf(3, 5)(x), tail, atol=1e-8)


BATCH, SLOTS, ARMS = 6000, 2, 3
PULLS = {"untried": (0.0, 0.0), "some": (5.0, 2.0), "many": (40.0, 36.5), "discounted": (1.5, 0.25)}


def draws(module, policy: str, count: float, total: float, sigma: float = 0.5) -> torch.Tensor:
    """[B, S, A] draws of arms that have all seen the same."""
    shape = (1, SLOTS, ARMS)
    tables = [torch.full(shape, value, dtype=torch.float64) for value in (count, total)]
    mean = tables[1] / tables[0].clamp(min=1)
    arms = module.Arms(*tables, mean, torch.zeros(shape))
    noise = module.Noise(torch.tensor([-7]), torch.tensor([5]), BATCH)
    word = module.first_draw(SLOTS, ARMS, torch.device("cpu"))
    if policy == "thompson_beta":
        return module.thompson_beta(arms, noise, word)
    return module.thompson_gaussian(arms, torch.tensor(sigma), noise, word)


def law(policy: str, count: float, total: float) -> Callable[[np.ndarray], np.ndarray]:
    if policy == "thompson_beta":
        return beta_cdf(1 + total, 1 + count - total)
    mean, spread = (0.5 + total) / (count + 1), 0.5 / math.sqrt(count + 1)
    return lambda x: normal_cdf((x - mean) / spread)


def law_p_value(module, policy: str, pulls: str) -> float:
    sample = draws(module, policy, *PULLS[pulls]).flatten().numpy()
    return kolmogorov(sample, law(policy, *PULLS[pulls]))


@pytest.mark.parametrize("pulls", PULLS)
@pytest.mark.parametrize("policy", ["thompson_gaussian", "thompson_beta"])
def test_draws_follow_their_law(policy, pulls):
    assert law_p_value(reference, policy, pulls) > LIKELY


def edit(line: str, becomes: str) -> Edit:
    return Edit("bandit.py", line, becomes)


# Name: (policy, pulls, edit).
WRONG_LAWS = {
    "both uniforms of a normal are one": (
        "thompson_gaussian", "some", edit("math.pi * uniforms[1])", "math.pi * uniforms[0])")),
    "variance over n": (
        "thompson_gaussian", "some", edit("sigma / n.sqrt()", "sigma / (n - 1).sqrt()")),
    "deviation over n + 1": ("thompson_gaussian", "some", edit("sigma / n.sqrt()", "sigma / n")),
    "mean without its prior": (
        "thompson_gaussian", "some", edit("(0.5 + arms.reward_sum) / n", "arms.mean")),
    "no prior failure": (
        "thompson_beta", "some", edit("gamma(1 + missed", "gamma(missed.clamp(min=1)")),
    "both gammas from the same draws": (
        "thompson_beta", "some", edit("word + 2 * TRIES)", "word)")),
    "every try accepted": (
        "thompson_beta", "untried", edit("(v > 0) & (u.log() <", "(v > 0) & (u.log() < 9 +")),
    "tries accepted that should not be": (
        "thompson_beta", "untried", edit("(v > 0) & (u.log() <", "(v > 0) & (u.log() >")),
    "the shape itself for d": ("thompson_beta", "some", edit("[..., None] - 1 / 3", "[..., None]")),
    "squares for cubes": ("thompson_beta", "some", edit("root * root * root", "root * root")),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_LAWS)
def test_wrong_laws_are_rejected(wrong):
    policy, pulls, line = WRONG_LAWS[wrong]
    assert law_p_value(Reference(line).module("bandit"), policy, pulls) < UNLIKELY


# ---- independence --------------------------------------------------------------------------------


def pairs(module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Draws that must not know of each other."""
    now = draws(module, "thompson_beta", *PULLS["some"])
    return {
        "arms": (now[:, 0, 0], now[:, 0, 1]),
        "slots": (now[:, 0, 2], now[:, 1, 2]),
        "slot and arm": (now[:, 0, 2], now[:, 1, 0]),
        "rows": (now[:-1, 0, 0], now[1:, 0, 0]),
    }


def independence_p_value(left: torch.Tensor, right: torch.Tensor) -> float:
    """Chi-squared of the quarters both fall in."""
    quarters = [side.argsort().argsort() * 4 // len(side) for side in (left, right)]
    return chi2.p_value(torch.stack(quarters, -1), np.full((4, 4), 1 / 16))


@pytest.mark.parametrize("pair", ["arms", "slots", "slot and arm", "rows"])
def test_draws_are_independent(pair):
    assert independence_p_value(*pairs(reference)[pair]) > LIKELY


SHARED = {
    "arms": edit("view(slots, arms) * DRAWS", "view(slots, arms) // arms * DRAWS"),
    "slots": edit("view(slots, arms) * DRAWS", "view(slots, arms) % arms * DRAWS"),
    "slot and arm": edit("view(slots, arms) * DRAWS", "view(slots, arms) // (arms - 1) * DRAWS"),
    "rows": edit("view(-1, *[1] * word.dim())", "view(-1, *[1] * word.dim()) // 2"),
}


@pytest.mark.parametrize("pair", SHARED)
def test_shared_draws_are_rejected(pair):
    assert independence_p_value(*pairs(Reference(SHARED[pair]).module("bandit"))[pair]) < UNLIKELY


# ---- what the operator picks ---------------------------------------------------------------------


def two_slots(policy: str, **params: float) -> BanditState:
    """Slot 0: Beta(1, 1) against Beta(3, 1); slot 1 the other way round."""
    bandit = BanditState.create(2, slots=2, level="token", policy=policy, seed=11, **params)
    bandit.count.copy_(torch.tensor([[[0.0, 2.0], [2.0, 0.0]]]))
    bandit.reward_sum.copy_(bandit.count)
    return bandit


def picks_p_value(bandit: BanditState, marginal: list[float], backend: str) -> float:
    """Both slots of 8000 rows jointly; arm 1 of slot 0 as likely as arm 0 of slot 1."""
    found = select(bandit, batch=8000, backend=backend).long()
    found[:, 1] = len(marginal) - 1 - found[:, 1]
    return chi2.p_value(found, np.outer(marginal, marginal))


def gaussian_wins() -> float:
    """N(2.5/3, 1/12) above N(1/2, 1/4)."""
    return float(normal_cdf([(2.5 / 3 - 0.5) / math.sqrt(1 / 12 + 1 / 4)])[0])


PICKS = {"thompson_beta": 0.75, "thompson_gaussian": gaussian_wins()}


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("policy", PICKS)
def test_thompson_picks_an_arm_as_often_as_it_is_the_best(backend, policy):
    win = PICKS[policy]
    assert picks_p_value(two_slots(policy), [1 - win, win], backend) > LIKELY
    near = win - 0.03
    assert picks_p_value(two_slots(policy), [1 - near, near], backend) < UNLIKELY


@pytest.mark.interpreted_slow
def test_epsilon_explores_every_arm_alike(backend):
    """epsilon = .4 of 4 arms: .1 each, and .6 more for the best, arm 3 (slot 1: arm 0)."""
    bandit = BanditState.create(4, slots=2, level="token", policy="epsilon_greedy", epsilon=0.4)
    bandit.count.fill_(4.0)
    bandit.reward_sum.copy_(torch.tensor([[[0.0, 3], [1, 2], [2, 1], [3, 0]]]))
    assert picks_p_value(bandit, [0.1, 0.1, 0.1, 0.7], backend) > LIKELY
    assert picks_p_value(bandit, [0.12, 0.1, 0.08, 0.7], backend) < UNLIKELY


@pytest.mark.interpreted_slow
def test_consecutive_calls_draw_anew(backend):
    bandit = two_slots("thompson_beta")
    first, second = (select(bandit, batch=8000, backend=backend)[:, 0].long() for _ in range(2))
    joint = torch.stack([first, second], -1)
    assert chi2.p_value(joint, np.outer([0.25, 0.75], [0.25, 0.75])) > LIKELY


# ---- addresses -----------------------------------------------------------------------------------


def uniforms(seed: int, lane: int, word: int, call: int) -> tuple[float, float]:
    counter = [torch.tensor(x & MASK) for x in (lane, word, call, BANDIT)]
    words = philox4x32(counter, (torch.tensor(seed & MASK), torch.tensor(seed >> 32 & MASK)))
    return tuple(uniform_from_words(*words[i : i + 2]).item() for i in (0, 2))


def normal(*address: int) -> float:
    u, v = uniforms(*address)
    return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)


def gamma(shape: float, seed: int, lane: int, word: int, call: int) -> float:
    d = shape - 1 / 3
    for k in range(8):
        x = normal(seed, lane, word + 2 * k, call)
        v = (1 + x / math.sqrt(9 * d)) ** 3
        u, _ = uniforms(seed, lane, word + 2 * k + 1, call)
        if v > 0 and math.log(u) < x * x / 2 + d - d * v + d * math.log(v):
            return d * v
    return d


def beta(a: float, b: float, seed: int, lane: int, word: int, call: int) -> float:
    x, y = gamma(a, seed, lane, word, call), gamma(b, seed, lane, word + 16, call)
    return x / (x + y)


COUNT = [[0.0, 3.0], [1.0, 2.0], [4.0, 0.5]]  # [A, K]
TOTAL = [[0.0, 1.0], [0.5, 2.0], [2.5, 0.5]]


def arm_by_hand(policy: str, seed: int, lane: int, call: int, slot: int) -> int:
    scores = []
    for arm, (count, total) in enumerate(zip(COUNT, TOTAL, strict=True)):
        n, r, at = count[slot], total[slot], (seed, lane, (slot * 3 + arm) * 32, call)
        if policy == "thompson_beta":
            scores.append(beta(1 + r, 1 + n - r, *at))
        elif policy == "thompson_gaussian":
            scores.append((0.5 + r) / (n + 1) + 0.5 / math.sqrt(n + 1) * normal(*at))
        else:
            scores.append(r / n if n else math.inf)
    if policy == "epsilon_greedy":
        explores, where = uniforms(seed, lane, slot * 3 * 32, call)
        if explores < 0.5:
            return min(2, math.floor(where * 3))
    return scores.index(max(scores))


@pytest.mark.parametrize("policy", ["thompson_gaussian", "thompson_beta", "epsilon_greedy"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("seed", "call"), [(0, 0), (-1, MASK), ((1 << 62) + 5, (1 << 40) + 3)])
@pytest.mark.sliced(3)
def test_draws_are_where_they_are_documented_to_be(backend, policy, level, seed, call):
    """lane = row, word = (slot A + arm) 32 + draw, round = the call's number before it."""
    params = {"epsilon": 0.5} if policy == "epsilon_greedy" else {}
    bandit = BanditState.create(3, slots=2, level=level, policy=policy, seed=seed, **params)
    slots = 2 if level == "token" else 1
    bandit.count.copy_(torch.tensor(COUNT)[None, :, :slots].view_as(bandit.count))
    bandit.reward_sum.copy_(torch.tensor(TOTAL)[None, :, :slots].view_as(bandit.count))
    bandit.calls.fill_(call)
    found = select(bandit, batch=20, backend=backend).view(20, slots).tolist()
    expected = [[arm_by_hand(policy, seed, b, call, j) for j in range(slots)] for b in range(20)]
    assert found == expected
    assert bandit.calls.item() == call + 1


# ---- the core's draws are the reference's --------------------------------------------------------


@pytest.mark.parametrize("pulls", PULLS)
@pytest.mark.parametrize("policy", ["thompson_gaussian", "thompson_beta"])
def test_core_draws_are_the_references(core, policy, pulls):
    """So their law is the one tested above."""
    count, total = PULLS[pulls]
    expected = draws(reference, policy, count, total)
    for lane, slot, arm in itertools.product(range(0, BATCH, 97), range(SLOTS), range(ARMS)):
        found = core.probe_thompson(
            policy == "thompson_beta", count, total, 0.5, -7, lane, 5, (slot * ARMS + arm) * 32
        )
        assert found == pytest.approx(expected[lane, slot, arm].item(), rel=1e-12, abs=1e-12)
