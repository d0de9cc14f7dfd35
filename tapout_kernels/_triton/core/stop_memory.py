"""What finished rounds do to the memory of the stop rules that ran; a lane for each round.

A token is judged if it was accepted or is the first rejected.

    adaedl         (lambda, AR)      AR <- AR/2 + n_acc/n_draft/2;  lambda' = lambda + .01 if
                                     AR < .9, else lambda - .01 unless every slot was drafted;
                                     lambda <- .9 lambda + .1 lambda'       (the Draft&Verify code)
    gammatune(+)   (gamma, mean)     n_acc = gamma: gamma <- min(gamma + delta, K); else
                                     mean <- clip((1 - eta) mean + eta n_acc, 1, K),
                                     gamma <- ceil(mean)                              (2504.00030)
    heuristic      (n)               n + 2 if every draft was accepted, else n - 1; in [1, K]
    hysteresis     (E, off, idle)    E <- (1 - alpha) E + alpha H for every judged token;
                                     off above high, on below low; idle: rounds it refused
    adasd_entropy  (n, mean, n, mean)    of H, over accepted and over rejected tokens
    adl            (k, gen, acc)     gen <- (1 - rho) gen + rho n_draft, acc likewise of n_acc;
                                     k <- clip(ceil(gen) + delta [acc >= gen], shortest, longest)
                                                                                      (2510.02358)

The others remember nothing here.  Only hysteresis learns from a round that drafted nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .stats import ENTROPY, NUM_STATS
from .stop import (
    ADAEDL,
    ADASD_ENTROPY,
    ADL,
    GAMMATUNE,
    GAMMATUNE_PLUS,
    HEURISTIC,
    HYSTERESIS,
)


class Four(NamedTuple):
    """float64 of the four parameters of each arm, or of what it remembers."""

    a: object
    b: object
    c: object
    d: object


class Finished(NamedTuple):
    accepted: object  # f64, and the next two
    drafted: object
    slots: object
    refused: object  # the pre-draft test ended it
    stats: object  # pointers to [K, 8]


@triton.jit
def load_four(pointer, known):
    return Four(
        tl.load(pointer, mask=known, other=0.0).to(tl.float64),
        tl.load(pointer + 1, mask=known, other=0.0).to(tl.float64),
        tl.load(pointer + 2, mask=known, other=0.0).to(tl.float64),
        tl.load(pointer + 3, mask=known, other=0.0).to(tl.float64),
    )


@triton.jit
def store_four(pointer, four, known):
    tl.store(pointer, four.a.to(tl.float32), mask=known)
    tl.store(pointer + 1, four.b.to(tl.float32), mask=known)
    tl.store(pointer + 2, four.c.to(tl.float32), mask=known)
    tl.store(pointer + 3, four.d.to(tl.float32), mask=known)


@triton.jit
def choose(chosen, four, other):
    return Four(
        tl.where(chosen, four.a, other.a), tl.where(chosen, four.b, other.b),
        tl.where(chosen, four.c, other.c), tl.where(chosen, four.d, other.d),
    )  # fmt: skip


@triton.jit
def stored(value):
    """As it is kept: what is decided by it must not hang on less."""
    return value.to(tl.float32).to(tl.float64)


@triton.jit
def clip(value, low, high):
    return tl.minimum(tl.maximum(value, low), high)


@triton.jit
def adaedl(memory, r):
    rate = 0.5 * memory.b + 0.5 * r.accepted / tl.where(r.drafted > 0.0, r.drafted, 1.0)
    lowered = tl.where(r.drafted == r.slots, memory.a, memory.a - 0.01)
    goal = tl.where(rate < 0.9, memory.a + 0.01, lowered)
    return Four(0.9 * memory.a + 0.1 * goal, rate, memory.c, memory.d)


@triton.jit
def gammatune(memory, param, r):
    reached = r.accepted >= memory.a
    longer = clip(memory.a + param.b, 1.0, r.slots)
    mean = stored(clip((1.0 - param.c) * memory.b + param.c * r.accepted, 1.0, r.slots))
    gamma = tl.where(reached, longer, tl.ceil(mean))
    return Four(gamma, tl.where(reached, memory.b, mean), memory.c, memory.d)


@triton.jit
def heuristic(memory, r):
    length = memory.a + tl.where(r.accepted >= r.drafted, 2.0, -1.0)
    return Four(clip(length, 1.0, r.slots), memory.b, memory.c, memory.d)


@triton.jit
def adl(memory, param, r):
    generated = stored((1.0 - param.a) * memory.b + param.a * r.drafted)
    accepted = stored((1.0 - param.a) * memory.c + param.a * r.accepted)
    length = tl.ceil(generated) + tl.where(accepted >= generated, param.b, 0.0)
    return Four(clip(length, param.c, param.d), generated, accepted, memory.d)


@triton.jit
def hysteresis(memory, param, mean, r):
    """``mean`` as :func:`judge` left it."""
    mean = stored(mean)
    off = tl.where(mean > param.a, 1.0, tl.where(mean < param.b, 0.0, memory.b))
    drafted = Four(mean, off, tl.zeros_like(off), memory.d)
    refused = Four(memory.a, memory.b, memory.c + 1.0, memory.d)
    return choose(r.refused, refused, drafted)


@triton.jit
def judge(memory, param, r, slots, known):
    """The entropies of the judged tokens, in order: hysteresis' mean, and adasd_entropy's four."""
    smooth, hits, hit_mean, misses, miss_mean = memory.a, memory.a, memory.b, memory.c, memory.d
    for slot in range(slots):
        hit = known & (slot < r.drafted) & (slot < r.accepted)
        miss = known & (slot < r.drafted) & (slot == r.accepted)
        entropy = tl.load(r.stats + slot * NUM_STATS + ENTROPY, mask=hit | miss, other=0.0)
        entropy = tl.maximum(entropy.to(tl.float64), 0.0)
        smooth = tl.where(hit | miss, (1.0 - param.c) * smooth + param.c * entropy, smooth)
        hits += hit.to(tl.float64)
        misses += miss.to(tl.float64)
        hit_mean += tl.where(hit, (entropy - hit_mean) / tl.maximum(hits, 1.0), 0.0)
        miss_mean += tl.where(miss, (entropy - miss_mean) / tl.maximum(misses, 1.0), 0.0)
    return smooth, Four(hits, hit_mean, misses, miss_mean)


@triton.jit
def update_memory(kind, param, memory, r, slots, known):
    """``param`` and ``memory``: pointers to the arms' own four; ``kind`` of the ``known`` lanes."""
    learns = known & ((r.drafted > 0.0) | ((kind == HYSTERESIS) & r.refused))
    p, old = load_four(param, learns), load_four(memory, learns)
    smooth, means = judge(
        old, p, r, slots, learns & ((kind == HYSTERESIS) | (kind == ADASD_ENTROPY))
    )
    new = choose(kind == ADAEDL, adaedl(old, r), old)
    new = choose((kind == GAMMATUNE) | (kind == GAMMATUNE_PLUS), gammatune(old, p, r), new)
    new = choose(kind == HEURISTIC, heuristic(old, r), new)
    new = choose(kind == HYSTERESIS, hysteresis(old, p, smooth, r), new)
    new = choose(kind == ADASD_ENTROPY, means, new)
    new = choose(kind == ADL, adl(old, p, r), new)
    store_four(memory, new, learns)
