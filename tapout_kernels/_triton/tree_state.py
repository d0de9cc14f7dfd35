"""What is kept of a request of tree_verify between its steps."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.stats import OK
from .law import Law

# Float64 numbers,
MAXIMUM = tl.constexpr(0)
KEPT = tl.constexpr(1)
CUTOFF = tl.constexpr(2)
SLOPE = tl.constexpr(3)  # s after the last rejection
LEFT = tl.constexpr(4)  # R after it, where it is a difference
NUM_NUMBERS = tl.constexpr(8)
# and int32 codes.
SUMS = tl.constexpr(0)  # whether the step is that of a rejection
AT = tl.constexpr(1)  # the row
ACCEPTED = tl.constexpr(2)
BAD = tl.constexpr(3)  # a child was met that the draft, or the target, cannot emit
LAST = tl.constexpr(4)  # the last rejected child
NEXT = tl.constexpr(5)  # the child to look at afterwards, -1: none
SUMMED = tl.constexpr(6)  # R is a sum of this step
COUNT = tl.constexpr(7)  # listed groups of a filtered row
ARGMAX = tl.constexpr(8)
NUM_CODES = tl.constexpr(12)


class State(NamedTuple):
    """Scratch of every request."""

    numbers: object  # [B, NUM_NUMBERS] f64
    codes: object  # [B, NUM_CODES] i32
    residual: object  # [B, chunks] f32 sums of [p_target / s - p_draft]+, or None
    draft: object  # [B, draft_tiles] f32 sums of p_draft, or None
    chunks: object  # i64
    draft_tiles: object  # i64


class Walk(NamedTuple):
    """Where a request is."""

    b: object  # i32
    r: object  # i64 row of state
    at: object  # i32 row of the tree
    accepted: object  # i32 nodes above it
    bad: object
    seed: object
    round: object


@triton.jit
def code(state, b, column):
    return tl.load(state.codes + b.to(tl.int64) * NUM_CODES + column, cache_modifier=".cg")


@triton.jit
def number(state, b, column):
    at = state.numbers + b.to(tl.int64) * NUM_NUMBERS + column
    return tl.load(at, cache_modifier=".cg")


@triton.jit
def set_code(state, b, column, value):
    tl.store(state.codes + b.to(tl.int64) * NUM_CODES + column, value)


@triton.jit
def set_number(state, b, column, value):
    tl.store(state.numbers + b.to(tl.int64) * NUM_NUMBERS + column, value)


@triton.jit
def keep_law(state, b, law):
    set_number(state, b, MAXIMUM, law.maximum)
    set_number(state, b, KEPT, law.kept)
    set_number(state, b, CUTOFF, law.cutoff.to(tl.float64))
    set_code(state, b, COUNT, law.count)
    set_code(state, b, ARGMAX, law.argmax)
    tl.debug_barrier()


@triton.jit
def kept_law(state, b):
    zero = tl.full([], 0.0, tl.float64)
    return Law(
        tl.full([], OK, tl.int32), number(state, b, MAXIMUM), zero, zero,
        number(state, b, CUTOFF).to(tl.float32), number(state, b, KEPT), code(state, b, COUNT),
        code(state, b, ARGMAX), tl.full([], 0.0, tl.float32),
    )  # fmt: skip


@triton.jit
def keep_walk(state, walk, at, accepted, bad, sums):
    set_code(state, walk.b, AT, at)
    set_code(state, walk.b, ACCEPTED, accepted)
    set_code(state, walk.b, BAD, bad.to(tl.int32))
    set_code(state, walk.b, SUMS, sums)
