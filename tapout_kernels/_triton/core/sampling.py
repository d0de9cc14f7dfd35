"""The sampling parameters of a row, and keys that order logits.

z >= cutoff is kept, ties too.  top-p cutoff = the largest t with mass{z >= t} >= top_p * mass kept
by top-k; min-p cutoff = the smallest z with e^((z - m)/T) >= min_p; the larger one holds.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

TOKEN = tl.constexpr(0)
BLOCK = tl.constexpr(1)
GUMBEL = tl.constexpr(2)
GREEDY = tl.constexpr(3)
LARGEST_TEMPERATURE = tl.constexpr(2.0**126)
SMALLEST_RATE = tl.constexpr(2.0**-126)
SIGN = tl.constexpr(0x80000000)


class RowSampling(NamedTuple):
    valid: object  # false: NaN or negative temperature
    one_hot: object  # the temperature counts as 0
    temperature: object  # f64, 1 where it counts as 0
    inv_temperature: object  # f64
    top_k: object  # i32, 0: off
    top_p: object  # f64, 1: off
    min_p: object  # f64, 0: off
    filtered: object


@triton.jit
def row_sampling(sampling, r, vocab, RULE: tl.constexpr):
    """``sampling`` of state row ``r``; ``greedy`` looks at none of it."""
    temperature = tl.full([], 1.0, tl.float64)
    top_k = tl.full([], 0, tl.int32)
    top_p = tl.full([], 1.0, tl.float64)
    min_p = tl.full([], 0.0, tl.float64)
    if RULE == GREEDY:
        temperature = tl.full([], 0.0, tl.float64)
    elif sampling.temperature is not None:
        temperature = tl.load(sampling.temperature + r).to(tl.float64)
    valid = temperature >= 0.0
    one_hot = valid & (temperature < 1e-5)
    free = valid & (temperature >= 1e-5)
    temperature = tl.where(free, tl.minimum(temperature, LARGEST_TEMPERATURE), 1.0)
    if RULE != GREEDY:
        if sampling.top_k is not None:
            k = tl.load(sampling.top_k + r)
            top_k = tl.where(free & (k > 0) & (k < vocab), k, 0)
        if sampling.top_p is not None:
            limit = tl.load(sampling.top_p + r).to(tl.float64)
            top_p = tl.where(free & (limit < 1.0), limit, 1.0)
        if sampling.min_p is not None:
            limit = tl.load(sampling.min_p + r).to(tl.float64)
            min_p = tl.where(free & (limit > 0.0), tl.minimum(limit, 1.0), 0.0)
    filtered = (top_k > 0) | (top_p < 1.0) | (min_p > 0.0)
    rate = tl.maximum(1.0 / temperature, SMALLEST_RATE)
    return RowSampling(valid, one_hot, temperature, rate, top_k, top_p, min_p, filtered)


@triton.jit
def order_key(value):
    """float32 -> i64 in [0, 2^32): key(a) < key(b) iff a < b (and -0 before +0)."""
    bits = value.to(tl.uint32, bitcast=True).to(tl.int64)
    return tl.where(bits >= SIGN, 0xFFFFFFFF - bits, bits + SIGN)


@triton.jit
def key_value(key):
    """The float32 of a key; -0 becomes +0."""
    bits = tl.where(key >= SIGN, key - SIGN, 0xFFFFFFFF - key)
    return bits.to(tl.uint32).to(tl.float32, bitcast=True) + 0.0


@triton.jit
def coarse_key(value, PRECISION: tl.constexpr):
    """Keys of a 16-bit dtype come 2^PRECISION apart: without those bits."""
    return order_key(value) >> PRECISION


@triton.jit
def coarse_value(key, PRECISION: tl.constexpr):
    """The only logit of a coarse key: its magnitude ends in zeros."""
    low = tl.where((key << PRECISION) >= SIGN, 0, (1 << PRECISION) - 1)
    return key_value((key << PRECISION) + low)
