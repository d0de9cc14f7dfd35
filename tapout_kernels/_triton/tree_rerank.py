"""tree_rerank: the best candidates whose parents are among them, as a tree; one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .best import LOOKED, are_best, best_scores, keys_of
from .core.tree import ABSENT, ROOT
from .launch import launch, tuning, workspace
from .params import Pointer


class Candidates(NamedTuple):
    tokens: Pointer  # [B, M] i64
    parents: Pointer  # [B, M] i32
    score: Pointer  # [B, M] f32


class Ranked(NamedTuple):
    tokens: Pointer  # [B, N] i64
    parents: Pointer  # [B, N] i32
    node: Pointer  # [B, N] i32 the candidate each node was


@triton.jit
def choose(candidates, chosen, begin, size, nodes):
    """Marks the best whose pointers lead back."""
    best = best_scores(candidates.score + begin, 0, size, nodes)
    tied = tl.full([], 0, tl.int32)
    for first in range(0, size, LOOKED):
        index, key = keys_of(candidates.score + begin, first, size)
        taken, tied = are_best(best, key, tied)
        parent = tl.load(candidates.parents + begin + index, mask=index < size, other=ABSENT)
        taken = taken & (parent >= ROOT) & (parent < index)
        tl.store(chosen + index, taken.to(tl.int32), mask=index < size)
    tl.debug_barrier()


@triton.jit
def connected(candidates, chosen, begin, index, size):
    """Which candidates are chosen with all of their ancestors."""
    fine = tl.load(chosen + index, mask=index < size, other=0)
    at = tl.where(fine != 0, index, -1)
    while tl.max(at, 0) >= 0:
        at = tl.load(candidates.parents + begin + at, mask=at >= 0, other=ROOT)
        fine = fine & tl.load(chosen + at, mask=at >= 0, other=1)
        at = tl.where(fine != 0, at, -1)
    return fine


@triton.jit(do_not_specialize=["size", "nodes"])
def tree_rerank_kernel(candidates, ranked, chosen, place, size: tl.int64, nodes: tl.int64):
    b = tl.program_id(0).to(tl.int64)
    begin, to, count = b * size, b * nodes, tl.full([], 0, tl.int32)
    size, nodes = size.to(tl.int32), nodes.to(tl.int32)
    chosen += begin
    place += begin
    choose(candidates, chosen, begin, size, nodes)
    for first in range(0, size, LOOKED):
        index = first + tl.arange(0, LOOKED)
        fine = connected(candidates, chosen, begin, index, size)
        slot = count + tl.cumsum(fine, 0) - fine
        tl.store(place + index, slot, mask=fine != 0)
        count += tl.sum(fine, 0)
        tl.debug_barrier()  # parents come before their children, maybe in this very block
        parent = tl.load(candidates.parents + begin + index, mask=fine != 0, other=ROOT)
        above = tl.load(place + parent, mask=(fine != 0) & (parent >= 0), other=ROOT)
        token = tl.load(candidates.tokens + begin + index, mask=fine != 0, other=0)
        tl.store(ranked.tokens + to + slot, token, mask=fine != 0)
        tl.store(ranked.parents + to + slot, above, mask=fine != 0)
        tl.store(ranked.node + to + slot, index, mask=fine != 0)
    for first in range(0, nodes, LOOKED):
        slot = first + tl.arange(0, LOOKED)
        missing = (slot >= count) & (slot < nodes)
        nothing = tl.full([LOOKED], -1, tl.int32)
        tl.store(ranked.tokens + to + slot, nothing.to(tl.int64), mask=missing)
        tl.store(ranked.parents + to + slot, nothing + (ABSENT + 1), mask=missing)
        tl.store(ranked.node + to + slot, nothing, mask=missing)


def tree_rerank(
    tokens: Tensor,
    parents: Tensor,
    score: Tensor,
    out_tokens: Tensor,
    out_parents: Tensor,
    node: Tensor,
) -> None:
    (batch, size), nodes = parents.shape, node.shape[1]
    flags = ((batch, size), torch.int32)
    space = workspace(parents.device, 0, flags, flags)
    launch(
        tree_rerank_kernel, batch, Candidates(tokens, parents, score),
        Ranked(out_tokens, out_parents, node), *space.arrays, size, nodes,
        warps=tuning(parents.device).warps,
    )  # fmt: skip
