"""Addressed randomness: u = (k + 1/2) 2^-52, k = 52 bits of Philox4x32-10 (Salmon et al. 2011).

key = seed of the request; counter = (lane, slot, round, domain).  Gumbel noise: counter =
(target id / 4, position low, position high, GUMBEL), one word per id; w = (word + 1/2) 2^-32, at
most 1 - 2^-24; G = -ln(-ln(1 - w)).
"""

from __future__ import annotations

import triton
import triton.language as tl

DRAFT = tl.constexpr(0)
ACCEPT = tl.constexpr(1)
RESIDUAL = tl.constexpr(2)
BANDIT = tl.constexpr(3)
GUMBEL = tl.constexpr(4)
MULTIPLIER_0 = tl.constexpr(0xD2511F53)
MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
WEYL_0 = tl.constexpr(0x9E3779B9)
WEYL_1 = tl.constexpr(0xBB67AE85)


@triton.jit
def philox4x32_10(c0, c1, c2, c3, key0, key1):
    """uint32 counters of one shape, uint32 scalar keys -> four words."""
    multiplier0 = tl.full([], MULTIPLIER_0, tl.uint32)
    multiplier1 = tl.full([], MULTIPLIER_1, tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, multiplier0), c0 * multiplier0
        high1, low1 = tl.umulhi(c2, multiplier1), c2 * multiplier1
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0 = key0 + tl.full([], WEYL_0, tl.uint32)
        key1 = key1 + tl.full([], WEYL_1, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def low_word(value):
    return value.to(tl.uint32)


@triton.jit
def high_word(value):
    return (value >> 32).to(tl.uint32)


@triton.jit
def uniform_from_words(word0, word1):
    bits = (word0.to(tl.int64) << 20) | (word1 >> 12).to(tl.int64)
    return (bits.to(tl.float64) + 0.5) * 2.0**-52


@triton.jit
def uniform_pair(seed, lane, slot, round_, domain: tl.constexpr):
    """Two uniforms of one block; int64 of one shape, ``seed`` a scalar."""
    zero = low_word(lane) * 0
    words = philox4x32_10(
        low_word(lane), zero + low_word(slot), zero + low_word(round_), zero + domain,
        low_word(seed), high_word(seed),
    )  # fmt: skip
    return uniform_from_words(words[0], words[1]), uniform_from_words(words[2], words[3])


@triton.jit
def uniform_at(seed, slot, round_, domain: tl.constexpr):
    """The uniform of a slot of a round, in lane 0."""
    return uniform_pair(seed, slot * 0, slot, round_, domain)[0]


@triton.jit
def gumbel_words(seed, position, block):
    """The four words of target ids 4 block .. 4 block + 3."""
    zero = block * 0
    return philox4x32_10(
        block, zero + low_word(position), zero + high_word(position), zero + GUMBEL,
        low_word(seed), high_word(seed),
    )  # fmt: skip


@triton.jit
def gumbel_noise(word):
    """float64, exact: 33 bits of w leave 1 - w exact."""
    w = tl.minimum((word.to(tl.float64) + 0.5) * 2.0**-32, 1.0 - 2.0**-24)
    return -tl.log(-tl.log(1.0 - w))
