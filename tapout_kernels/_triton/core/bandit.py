"""A bandit over stop rules, as ``csrc/core/bandit.h`` has it (TapOut, 2511.02017).

Lanes are arms.  Of an arm, by completed pulls: n, mean = reward_sum / n (0 untried), var.
  ucb1               mean + c sqrt(2 ln t / n)                                 (Auer et al. 2002)
  ucb_tuned          mean + sqrt(ln t / n min(1/4, var + sqrt(2 ln t / n)))
  ucbspec            mean + 1/2 sqrt((1 + n) / n^2 (1 + 2 ln(A t^2 sqrt(1 + n) / delta)))
                     (BanditSpec, 2505.15141, over the range K of its reward)
      in these n counts this call's pulls too, n = 0 scores +inf
  thompson_gaussian  N((1/2 + reward_sum) / (n + 1), sigma^2 / (n + 1))
  thompson_beta      Beta(1 + reward_sum, 1 + n - reward_sum)   (Marsaglia and Tsang 2000)
  epsilon_greedy     any arm with probability epsilon, else the best mean (+inf untried)
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .rng import BANDIT, uniform_pair
from .stop import PRE_DRAFT, RULE

FIXED = tl.constexpr(0)
UCB1 = tl.constexpr(1)
UCB_TUNED = tl.constexpr(2)
THOMPSON_GAUSSIAN = tl.constexpr(3)
THOMPSON_BETA = tl.constexpr(4)
EPSILON_GREEDY = tl.constexpr(5)
UCBSPEC = tl.constexpr(6)
EXP3 = tl.constexpr(7)  # the first that draws by weight
HEDGE = tl.constexpr(8)  # the first that learns of every rule
NORMALHEDGE = tl.constexpr(9)
BLEND = tl.constexpr(1)
THROUGHPUT = tl.constexpr(2)
DECISION = tl.constexpr(3)  # of the token level, and the next
TOKEN_ACCEPT = tl.constexpr(4)
OVERLAP = tl.constexpr(5)

ALPHA = tl.constexpr(0)  # entries of params
POLICY_PARAM = tl.constexpr(1)
DISCOUNT = tl.constexpr(2)
TRIES = tl.constexpr(8)  # of a gamma variate; each takes two draws
COS_TERMS = tl.constexpr(10)  # what the next would add is below 2e-17
ARM_DRAWS = tl.constexpr(32)  # addresses an arm owns
TWO_PI = tl.constexpr(6.283185307179586477)


class Arms(NamedTuple):
    """The tables of one group and slot, f64."""

    count: object
    reward_sum: object
    reward_sq: object  # or estimated losses (weights.py)
    tokens: object
    cost: object


class ArmValue(NamedTuple):
    """What is known of the arms, f64; the mean of an arm never pulled is 0."""

    count: object
    reward_sum: object
    mean: object
    variance: object


@triton.jit
def ratio(numerator, denominator, otherwise: tl.constexpr):
    some = denominator > 0.0
    return tl.where(some, numerator / tl.where(some, denominator, 1.0), otherwise)


@triton.jit
def throughput_mean(arms, slots):
    rate = ratio(tl.sum(arms.tokens, 0), tl.sum(arms.cost, 0), 1.0)
    scale = 2.0 * (slots.to(tl.float64) + 1.0) * arms.count
    mean = 0.5 + ratio(arms.tokens - rate * arms.cost, scale, 0.0)
    return tl.where(arms.count > 0.0, tl.minimum(tl.maximum(mean, 0.0), 1.0), 0.0)


@triton.jit
def arm_value(arms, slots, REWARD: tl.constexpr):
    mean, total = ratio(arms.reward_sum, arms.count, 0.0), arms.reward_sum
    if REWARD == THROUGHPUT:
        mean = throughput_mean(arms, slots)
        total = mean * arms.count
    variance = tl.maximum(ratio(arms.reward_sq, arms.count, 0.0) - mean * mean, 0.0)
    return ArmValue(arms.count, total, mean, tl.where(arms.count > 0.0, variance, 0.0))


# ---- scores --------------------------------------------------------------------------------------


@triton.jit
def log_pulls(pulls):
    return tl.log(tl.maximum(pulls, 1.0))


@triton.jit
def ucb1_score(mean, pulls, log_t, exploration):
    """The root of n apart: 2 ln t / n overflows for a count that was discounted to almost 0."""
    some = pulls > 0.0
    bonus = exploration * tl.sqrt(2.0 * log_t) / tl.sqrt(tl.where(some, pulls, 1.0))
    return tl.where(some, mean + bonus, float("inf"))


@triton.jit
def ucb_tuned_score(mean, variance, pulls, log_t):
    some = pulls > 0.0
    share = log_t / tl.where(some, pulls, 1.0)
    spread = tl.minimum(variance + tl.sqrt(2.0 * share), 0.25)
    return tl.where(some, mean + tl.sqrt(share * spread), float("inf"))


@triton.jit
def ucbspec_score(mean, pulls, log_t, number, delta):
    """Of ``number`` arms; no delta makes it rise with the pulls."""
    some = pulls > 0.0
    known = tl.where(some, pulls, 1.0)
    doubt = tl.log(number.to(tl.float64) / delta) + 2.0 * log_t + 0.5 * tl.log(1.0 + known)
    spread = tl.sqrt(1.0 + 2.0 * tl.where(doubt > 0.0, doubt, 0.0))
    return tl.where(some, mean + 0.5 * (tl.sqrt(1.0 + known) / known) * spread, float("inf"))


@triton.jit
def pending_score(arms, added, log_t, number, param, POLICY: tl.constexpr):
    """After ``added`` pulls in this call; never rises with them, so that choices can be merged.

    A negative exploration would let it rise: then whoever is ahead stays ahead, which is what the
    score of the first completed pull for all of them says too.
    """
    pulls = arms.count + added
    if POLICY == UCB1:
        first = tl.where(arms.count > 0.0, arms.count, 1.0)
        pulls = tl.where(param < 0.0, tl.minimum(pulls, first), pulls)
        score = ucb1_score(arms.mean, pulls, log_t, param)
    elif POLICY == UCBSPEC:
        score = ucbspec_score(arms.mean, pulls, log_t, number, param)
    else:
        score = ucb_tuned_score(arms.mean, arms.variance, pulls, log_t)
    return score


@triton.jit
def fixed_arm(param):
    return tl.where((param >= 0.0) & (param <= 2147483647.0), param, -1.0).to(tl.int64)


# ---- draws: `row` is the batch row, `word` counter word 1, `round_` the calls before this one ----


@triton.jit
def cos_of_turn(u):
    """cos(2 pi u), u in (0, 1), to rounding.  That of CUDA's library takes a stack, and registers,
    for arguments that do not occur here."""
    turn = tl.abs(u - 0.5)
    angle = tl.minimum(turn, 0.5 - turn) * TWO_PI  # in [0, pi / 2]
    square, value = angle * angle, tl.full(u.shape, 1.0, tl.float64)
    for k in tl.static_range(COS_TERMS, 0, -1):
        value = 1.0 - value * (square * (1.0 / (2 * k * (2 * k - 1))))
    return tl.where(turn < 0.25, -value, value)


@triton.jit
def bandit_normal(seed, row, word, round_):
    first, second = uniform_pair(seed, row, word, round_, BANDIT)
    return tl.sqrt(-2.0 * tl.log(first)) * cos_of_turn(second)


@triton.jit
def gamma_draw(seed, row, word, round_, shape, wanted):
    """Gamma(shape, 1) for shape >= 1 where ``wanted``; d if every try is rejected."""
    d = tl.broadcast_to(shape, word.shape) - 1.0 / 3.0
    c = 1.0 / tl.sqrt(9.0 * d)
    value, waiting = d, wanted
    tried = tl.full([], 0, tl.int32)
    while (tried < TRIES) & (tl.max(waiting.to(tl.int32)) > 0):
        x = bandit_normal(seed, row, word, round_)
        u, _ = uniform_pair(seed, row, word + 1, round_, BANDIT)
        root = 1.0 + c * x
        v = root * root * root
        some = v > 0.0
        limit = x * x / 2.0 + d - d * v + d * tl.log(tl.where(some, v, 1.0))
        accepted = waiting & some & (tl.log(u) < limit)
        value = tl.where(accepted, d * v, value)
        waiting = waiting & (accepted == 0)
        word, tried = word + 2, tried + 1
    return value


@triton.jit
def thompson_gaussian(arms, seed, row, word, round_, sigma):
    n = arms.count + 1.0
    noise = bandit_normal(seed, row, word, round_)
    return (0.5 + arms.reward_sum) / n + sigma / tl.sqrt(n) * noise


@triton.jit
def thompson_beta(arms, seed, row, word, round_, wanted):
    good = 1.0 + tl.maximum(arms.reward_sum, 0.0)
    missed = 1.0 + tl.maximum(arms.count - arms.reward_sum, 0.0)
    x = gamma_draw(seed, row, word, round_, good, wanted)
    y = gamma_draw(seed, row, word + 2 * TRIES, round_, missed, wanted)
    return x / (x + y)


@triton.jit
def explored_arm(seed, row, word, round_, epsilon, arms):
    """The arm epsilon-greedy explores in a row, or -1 where it takes the best."""
    explores, where = uniform_pair(seed, row, word, round_, BANDIT)
    arm = tl.minimum((where * arms.to(tl.float64)).to(tl.int64), arms - 1)
    return tl.where(explores < epsilon, arm, -1)


# ---- credit --------------------------------------------------------------------------------------


@triton.jit
def bandit_reward(accepted, drafted, slots, alpha, REWARD: tl.constexpr):
    """Sequence level.  Throughput reads tokens and cost instead."""
    reward = accepted / slots
    if REWARD == BLEND:
        share = (1.0 - alpha) * accepted / tl.where(drafted > 0.0, drafted, 1.0)
        reward = alpha * reward + share
    if REWARD == THROUGHPUT:
        reward = accepted * 0.0
    return tl.where(drafted > 0.0, reward, 0.0)


@triton.jit
def overlap_reward(overlap, drafted, slots, known):
    """MetaSD's: ``overlap`` points to slot 0 of each draft, -1 where it is not known."""
    total = drafted.to(tl.float64) * 0.0
    for slot in range(slots):
        inside = known & (slot < drafted)
        value = tl.load(overlap + slot, mask=inside, other=0.0).to(tl.float64)
        total += tl.where(inside, tl.maximum(value, 0.0), 0.0)
    return total / slots.to(tl.float64)


@triton.jit
def slot_credit(reason, slot, accepted, drafted, REWARD: tl.constexpr):
    """Token level: 0 or 1, or -1 where the round taught slot's arm nothing."""
    if REWARD == TOKEN_ACCEPT:
        credit = (slot < accepted).to(tl.int32)
    else:
        stopped = tl.where(reason == RULE, (accepted == slot).to(tl.int32), -1)
        credit = tl.where(slot + 1 < drafted, (accepted >= slot + 2).to(tl.int32), stopped)
    credit = tl.where((slot < drafted) & (slot <= accepted), credit, -1)
    return tl.where((drafted <= 0) & (reason == PRE_DRAFT) & (slot == 0), 0, credit)


@triton.jit
def credited(arms, lane, who, ran, reward, squares, emitted, spent, discount):
    """One round: ``who`` is credited, ``ran`` pays; for -1, nobody, nothing is discounted."""
    kept = tl.where(who >= 0, discount, 1.0)
    paid = tl.where(ran >= 0, discount, 1.0)
    mine, payer = lane == who, lane == ran
    return Arms(
        arms.count * kept + tl.where(mine, 1.0, 0.0),
        arms.reward_sum * kept + tl.where(mine, reward, 0.0),
        arms.reward_sq * kept + squares,
        arms.tokens * paid + tl.where(payer, emitted, 0.0),
        arms.cost * paid + tl.where(payer, spent, 0.0),
    )
