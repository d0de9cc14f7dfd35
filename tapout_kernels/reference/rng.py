"""Addressed randomness: Philox4x32-10 (Salmon et al., SC 2011) as plain integer tensors.

A uniform is a pure function of ``(seed, lane, slot, round, domain)``: nothing is consumed and no
generator object exists.  ``u = (k + 1/2) * 2**-52`` with ``k`` the top 52 of 64 random bits, so
``u`` is exact in float64 and strictly inside (0, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

DRAFT, ACCEPT, RESIDUAL, BANDIT, GUMBEL = range(5)  # counter word 3: one domain per use of noise

MASK32 = 0xFFFFFFFF
_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_GOLDEN64 = 0x9E3779B97F4A7C15


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds over four counter words and two key words, each int64 in [0, 2**32)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The int64 product wraps modulo 2**64, which keeps exactly the 64 bits Philox needs.
        product0, product1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1, c2, c3 = (
            (product1 >> 32 & MASK32) ^ c1 ^ k0,
            product1 & MASK32,
            (product0 >> 32 & MASK32) ^ c3 ^ k1,
            product0 & MASK32,
        )
        k0, k1 = k0 + _WEYL[0] & MASK32, k1 + _WEYL[1] & MASK32
    return c0, c1, c2, c3


def uniform_from_words(word0: Tensor, word1: Tensor) -> Tensor:
    """Two random words -> one float64 uniform strictly inside (0, 1)."""
    bits = (word0 << 20) | (word1 >> 12)
    return (bits.double() + 0.5) * 2.0**-52


def uniform(seed: Tensor, lane: int, slot: Tensor, round: Tensor, domain: int) -> Tensor:
    """The uniform at an address; ``seed``, ``slot`` and ``round`` are int64 and broadcast."""
    seed, slot, round = torch.broadcast_tensors(seed, slot, round)
    counter = (
        torch.full_like(slot, lane),
        slot & MASK32,
        round & MASK32,
        torch.full_like(slot, domain),
    )
    words = philox4x32(counter, (seed & MASK32, seed >> 32 & MASK32))
    return uniform_from_words(words[0], words[1])


def mix64(seed: int, ordinal: int) -> int:
    """The key of a request: SplitMix64's finaliser over ``seed`` advanced by ``ordinal + 1``.

    A bandit remembers what earlier noise did, so requests seen by one bandit state need distinct
    keys even when users pass equal seeds: ``key = mix64(user_seed, ordinal of the request)``.

    Parameters
    ----------
    seed, ordinal : int
        Any integers; ``seed`` is taken modulo 2**64.

    Returns
    -------
    int
        A signed 64-bit integer, ready for :meth:`RngState.of`.

    Examples
    --------
    >>> mix64(7, 0) != mix64(7, 1)
    True
    """
    mask = (1 << 64) - 1
    z = (seed + (ordinal + 1) * _GOLDEN64) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z
