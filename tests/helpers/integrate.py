"""Measures of outcomes over one uniform, found by bisection on its lattice: nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LATTICE = 1 << 52  # u = (k + 1/2) 2**-52, k in [0, LATTICE)
RESOLUTION = 1 << 16  # a threshold is known to 2**-36; 0 and 1 exactly
DRAFT, ACCEPT, RESIDUAL = 0, 1, 2


def uniform_at(k: Tensor) -> Tensor:
    return (k.double() + 0.5) / LATTICE


class Threshold(NamedTuple):
    """Where a monotone outcome turns false: true at ``inside``, false at ``outside``."""

    inside: Tensor  # [n] i64 lattice point, -1: nowhere true
    outside: Tensor  # [n] i64, LATTICE: nowhere false

    @property
    def measure(self) -> Tensor:
        """[n] of {u : true}, to 2**-37, and exactly 0 or 1 where it is."""
        middle = (self.inside + self.outside + 1).double() / 2
        middle = torch.where(self.inside < 0, 0.0, middle)
        return torch.where(self.outside >= LATTICE, float(LATTICE), middle) / LATTICE


def threshold(below: Callable[[Tensor], Tensor], rows: int) -> Threshold:
    """Of ``below`` ([n] uniforms -> [n] bool), true up to a point, then false; checked to be so."""
    first, last = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), LATTICE - 1)
    never, always = ~below(uniform_at(first)), below(uniform_at(last))
    inside = torch.where(never, -1, torch.where(always, last, first))
    outside = torch.where(never, first, torch.where(always, LATTICE, last))
    while ((gap := outside - inside) > RESOLUTION).any():
        middle = torch.where(gap > RESOLUTION, (inside + outside) // 2, inside)
        probe = middle.clamp(min=0)
        found = below(uniform_at(probe)) & ~never
        inside = torch.where(found & (gap > RESOLUTION), middle, inside)
        outside = torch.where(~found & (gap > RESOLUTION), middle, outside)
    _check_monotone(below, inside, outside)
    return Threshold(inside, outside)


def _check_monotone(below: Callable[[Tensor], Tensor], inside: Tensor, outside: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        k = torch.randint(LATTICE, inside.shape, generator=generator)
        found = below(uniform_at(k))
        assert not (found & (k >= outside)).any()
        assert not (~found & (k <= inside)).any()


class Noise:
    """Stands for ``uniform``: values[domain] is [B, slots]; notes which addresses were read.

    Row b must ask with the key and the round it was given (round = key + 1): an address that
    forgets either is refused.
    """

    def __init__(self, seed: Tensor, slots: int):
        half = torch.full((len(seed), slots), 0.5, dtype=torch.float64)
        self.seed = seed
        self.values = {domain: half.clone() for domain in (DRAFT, ACCEPT, RESIDUAL)}
        self.read: set[tuple[int, int]] = set()

    def __call__(self, seed: Tensor, lane: int, slot: Tensor, round: Tensor, domain: int) -> Tensor:
        seed, slot, round = torch.broadcast_tensors(seed, slot, round)
        columns = slot.reshape(slot.shape[0], -1)
        assert lane == 0
        assert torch.equal(seed.reshape(columns.shape), self.seed[:, None].expand_as(columns))
        assert torch.equal(round, seed + 1), "the round is part of every address"
        self.read |= {(domain, int(s)) for s in columns.unique()}
        return self.values[domain].gather(1, columns).view(slot.shape)
