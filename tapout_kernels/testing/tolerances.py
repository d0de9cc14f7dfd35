"""The only table of numbers two backends may differ by."""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """|value - expected| <= atol + rtol * |expected|."""

    atol: float
    rtol: float


NEAR = 1e-5
"""Contract 7: a decision may differ where its two sides (CDF and uniform, acceptance, stop test,
mass and its top-p limit) are this close: absolute for masses, relative for the rest."""

# Derivation.  Contract 7 lets masses move by NEAR and the sides of a decision by NEAR relative, so
# a number that decides may move by that much.  The f32 row adds x = (z - m)/T: three roundings of
# 2**-24 each, 1.8e-7 |x| in ln w, which the rtol of a logarithm covers (|x| <= |logprob| + ln V).
TOLERANCES: dict[str, Tolerance] = {
    "lse": Tolerance(NEAR, 2.0**-22),  # ln of a mass; stored in f32
    "entropy": Tolerance(1e-6, 2 * NEAR),  # its square root decides: NEAR relative of the root
    "top1_prob": Tolerance(0.0, NEAR),
    "top2_prob": Tolerance(2.0**-126, NEAR),  # the smallest normal f32: below it, anything goes
    "token_logprob": Tolerance(NEAR, 2.0**-21),  # ln of a probability
    "cutoff": Tolerance(0.0, 0.0),  # an actual logit
    "temperature": Tolerance(0.0, 0.0),  # a copy
    "accept_prob": Tolerance(2.0**-126, 2 * NEAR),  # a quotient of two probabilities
    "ears_prob": Tolerance(NEAR, 2 * NEAR),  # as accept_prob, and a part of 1 - max p, a mass
    "overlap": Tolerance(NEAR, NEAR),  # a mass
    "logprobs": Tolerance(NEAR, 2.0**-21),  # as token_logprob
    # Jensen-Shannon is a metric. A distribution moved by NEAR relative is 0.4 NEAR from where it
    # was: two of them move a distance by NEAR, and a row of memory is ten distances at most.
    "lossy_memory": Tolerance(10 * NEAR, 0.0),
    "bandit": Tolerance(0.0, 1e-15),  # f64 in the same order; one ulp of a product
    # x e^x <= 1/e for x <= 0: ulps of an exponent are at most as many of 1 in the probability.
    "arm_prob": Tolerance(2.0**-51, 1e-15),
    "memory": Tolerance(0.0, 2.0**-23),  # f64 arithmetic, one rounding to f32
    # A mean of values near 1 by weights whose exponents are sums of 128 products in f32; what is
    # stored in 16 bits may be rounded the other way, which is one of its eps more.
    "attention": Tolerance(2.0**-19, NEAR),
}
STATS_COLUMNS = tuple(TOLERANCES)[:7]  # in the order of the columns
