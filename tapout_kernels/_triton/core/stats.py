"""One pass gives every statistic.  With x_v = (z_v - m) / T over the row:

    m = max z,  s = sum e^x,  D = sum x e^x        lse = m/T + ln s,  H = ln s - D/s

Pieces of a row form a monoid: with a_i = e^((m_i - m)/T),  s = sum a_i s_i,
D = sum a_i (D_i + s_i (m_i - m)/T).  A NaN or +inf logit makes s NaN, so no flag is needed.
"""

from __future__ import annotations

import triton
import triton.language as tl

OK = tl.constexpr(0)
NAN = tl.constexpr(1)
EMPTY = tl.constexpr(2)
BAD_DRAFT = tl.constexpr(3)
# Columns of a row of statistics.
LSE = tl.constexpr(0)
ENTROPY = tl.constexpr(1)
TOP1_PROB = tl.constexpr(2)
TOP2_PROB = tl.constexpr(3)
TOKEN_LOGPROB = tl.constexpr(4)
CUTOFF = tl.constexpr(5)
TEMPERATURE = tl.constexpr(6)
ACCEPT_ESTIMATE = tl.constexpr(7)
NUM_STATS = tl.constexpr(8)


@triton.jit
def base_of(maximum):
    """What to measure a piece from: its maximum, 0 where nothing in it is finite."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def weight(z, maximum, inv_temperature):
    """e^((z - m)/T) in float32; 0 for z = -inf."""
    return tl.exp((z - maximum) * inv_temperature)


@triton.jit
def row_status(maximum, total, valid):
    bad = (total != total) | (valid == 0)
    return tl.where(bad, NAN, tl.where(maximum == float("-inf"), EMPTY, OK))


@triton.jit
def entropy(total, dev):
    return tl.log(total) - dev / total


@triton.jit
def log_probability(z, maximum, inv_temperature, total):
    """float64."""
    return (z.to(tl.float64) - maximum) * inv_temperature - tl.log(total)
