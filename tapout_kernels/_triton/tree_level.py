"""The end of a level of tree_expand: who goes on, and with which rows."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .best import LOOKED, are_best, best_scores, keys_of
from .core.tree import ABSENT
from .params import Pointer


class Level(NamedTuple):
    active: Pointer  # [B] bool
    depth: Pointer  # [B] i32
    threshold: Pointer  # [B] f32 or None
    next_node: Pointer  # [n] i32 the next level's rows; None: the best children
    next_beam: Pointer  # [B, n] i32 or None, and the next
    next_row: Pointer  # [B, n] i32
    next_token: Pointer  # [B, n] i64


@triton.jit
def grew(tokens, low, high):
    found = tl.full([], 0, tl.int32)
    for first in range(low, high, LOOKED):
        node = first + tl.arange(0, LOOKED)
        token = tl.load(tokens + node, mask=node < high, other=-1, cache_modifier=".cg")
        found += tl.sum((token >= 0).to(tl.int32), 0)
    return found > 0


@triton.jit
def best_children(beam, score, low, high, count):
    """In the order of their nodes; then no rows."""
    best = best_scores(score, low, high, count)
    tied, n = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    for first in range(low, high, LOOKED):
        node, key = keys_of(score, first, high)
        chosen, tied = are_best(best, key, tied)
        slot = n + tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(beam + slot, node, mask=chosen)
        n += tl.sum(chosen.to(tl.int32), 0)
    for first in range(0, count, LOOKED):
        slot = first + tl.arange(0, LOOKED)
        missing = (slot >= n) & (slot < count)
        tl.store(beam + slot, tl.full([LOOKED], ABSENT, tl.int32), mask=missing)
    tl.debug_barrier()


@triton.jit
def write_rows(level, beam, tokens, child_start, b, width, nodes, count, drafting):
    """The nodes of the next level, the rows they hang on, and their tokens."""
    for first in range(0, count, LOOKED):
        slot = first + tl.arange(0, LOOKED)
        known = slot < count
        if level.next_node is not None:
            node = tl.load(level.next_node + slot, mask=known, other=ABSENT)
        else:
            node = tl.load(beam + slot, mask=known & drafting, other=ABSENT)
        node = tl.where(drafting & (node >= 0) & (node < nodes), node, ABSENT)
        row = slot * 0
        for i in range(width):
            w = width - 1 - i  # the first row that has it, in the end
            begin, end = tl.load(child_start + w), tl.load(child_start + w + 1)
            row = tl.where((node >= begin) & (node < end), w, row)
        token = tl.load(tokens + node, mask=node >= 0, other=0, cache_modifier=".cg")
        at = b * count + slot
        tl.store(beam + slot, node, mask=known)
        tl.store(level.next_row + at, tl.where(node >= 0, row, 0), mask=known)
        tl.store(level.next_token + at, tl.maximum(token, 0), mask=known)
    tl.debug_barrier()


@triton.jit
def beam_logsumexp(beam, score, count):
    """ln sum e^score of the next level's rows; -inf if there is none."""
    maximum, total = tl.full([], float("-inf"), tl.float64), tl.full([], 0.0, tl.float64)
    for first in range(0, count, LOOKED):
        slot = first + tl.arange(0, LOOKED)
        node = tl.load(beam + slot, mask=slot < count, other=ABSENT)
        value = tl.load(score + node, mask=node >= 0, other=float("-inf"), cache_modifier=".cg")
        value = tl.where(value > float("-inf"), value, float("-inf")).to(tl.float64)
        top = tl.maximum(maximum, tl.max(value, 0))
        base = tl.where(top == float("-inf"), 0.0, top)
        total = total * tl.exp(maximum - base) + tl.sum(tl.exp(value - base), 0)
        maximum = top
    return tl.where(total > 0.0, maximum + tl.log(total), float("-inf"))


@triton.jit
def end_level(level, tokens, score, child_start, b, width, nodes, count, drafting):
    """By the last program of a request."""
    tokens += b * nodes
    score += b * nodes
    low = tl.maximum(tl.load(child_start), 0)
    high = tl.minimum(tl.load(child_start + width), nodes)
    more = drafting & grew(tokens, low, high)
    goes_on = more
    if level.next_beam is not None:
        beam = level.next_beam + b * count
        if level.next_node is None:
            if drafting:
                best_children(beam, score, low, high, count)
        write_rows(level, beam, tokens, child_start, b, width, nodes, count, drafting)
        if level.threshold is not None:
            limit = tl.load(level.threshold + b).to(tl.float64)
            goes_on = goes_on & ((beam_logsumexp(beam, score, count) < limit) == 0)
    if drafting:
        tl.store(level.depth + b, tl.load(level.depth + b) + more.to(tl.int32))
        tl.store(level.active + b, goes_on)
