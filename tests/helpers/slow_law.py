"""Noise and the processed distribution of a row, written again from the text of the contract.

float64, one id at a time, no code in common with the package: what ``slow_verify`` is made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OK, NAN, EMPTY, BAD_DRAFT = range(4)  # status
ACCEPT, RESIDUAL, NOISE = 1, 2, 4  # domains
LOW32 = 0xFFFFFFFF


# ---- noise --------------------------------------------------------------------------------------


def philox(counter: tuple[int, int, int, int], seed: int) -> tuple[int, int, int, int]:
    a, b, c, d = counter
    key0, key1 = seed & LOW32, (seed >> 32) & LOW32
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (right >> 32) ^ b ^ key0, right & LOW32, (left >> 32) ^ d ^ key1, left & LOW32
        key0, key1 = (key0 + 0x9E3779B9) & LOW32, (key1 + 0xBB67AE85) & LOW32
    return a, b, c, d


def uniform(seed: int, slot: int, round_: int, domain: int) -> float:
    words = philox((0, slot, round_ & LOW32, domain), seed)
    return ((words[0] << 20 | words[1] >> 12) + 0.5) / 2**52


def gumbel_noise(seed: int, position: int, token: int) -> float:
    words = philox((token // 4, position & LOW32, (position >> 32) & LOW32, NOISE), seed)
    w = min((words[token % 4] + 0.5) / 2**32, 1 - 2**-24)
    return -math.log(-math.log1p(-w))


# ---- the processed distribution of one row ------------------------------------------------------


@dataclass
class Law:
    status: int
    p: list[float]  # [V]; empty unless OK
    z: list[float]  # [V] after the mask
    temperature: float  # 0 where it counts as 0


def softmax(z: list[float], temperature: float, keep: list[bool]) -> list[float]:
    top = max(z)
    weight = [math.exp((x - top) / temperature) if k else 0.0 for x, k in zip(z, keep, strict=True)]
    total = math.fsum(weight)
    return [w / total for w in weight]


def law_of(z: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> Law:
    if math.isnan(temperature) or temperature < 0:
        return Law(NAN, [], z, 0.0)
    if any(math.isnan(x) or x == math.inf for x in z):
        return Law(NAN, [], z, 0.0)
    if all(x == -math.inf for x in z):
        return Law(EMPTY, [], z, 0.0)
    if temperature < 1e-5:
        best = z.index(max(z))
        return Law(OK, [float(v == best) for v in range(len(z))], z, 0.0)
    keep = [x > -math.inf for x in z]
    if 0 < top_k < len(z):
        limit = sorted(z, reverse=True)[top_k - 1]
        keep = [k and x >= limit for k, x in zip(keep, z, strict=True)]
    if top_p < 1:
        keep = nucleus(z, softmax(z, temperature, keep), keep, top_p)
    if min_p > 0:
        top = max(z)
        keep = [
            k and (x == top or math.exp((x - top) / temperature) >= min_p)
            for k, x in zip(keep, z, strict=True)
        ]
    return Law(OK, softmax(z, temperature, keep), z, temperature)


def nucleus(z: list[float], p: list[float], keep: list[bool], top_p: float) -> list[bool]:
    """Kept down to the largest t with mass{z >= t} >= top_p; the maximum always stays."""
    order = sorted((v for v in range(len(z)) if keep[v]), key=lambda v: -z[v])
    limit, mass = z[order[0]], 0.0
    for i, v in enumerate(order):
        mass += p[v]
        tied = i + 1 < len(order) and z[order[i + 1]] == z[v]
        limit = z[v]
        if not tied and mass >= top_p:
            break
    return [k and x >= limit for k, x in zip(keep, z, strict=True)]


def draw(weight: list[float], u: float) -> int:
    """The first id whose inclusive prefix exceeds u times the total; -1 if there is no mass."""
    total = math.fsum(weight)
    goal, prefix, last = u * total, 0.0, -1
    for v, w in enumerate(weight):
        if w > 0:
            prefix, last = prefix + w, v
            if prefix > goal:
                return v
    return last
