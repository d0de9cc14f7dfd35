"""Where the arms a program has chosen go, and how a call that chose them ends."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .params import Pointer
from .tables import group_of


class Choice(NamedTuple):
    """Where choices go."""

    arm: Pointer  # [R] or [R, K] i32
    arm_prob: Pointer  # [R, A] or [R, A, K] f64, of policies that draw by weight
    staged: Pointer  # [S, B] i32: nothing may be written to `arm` yet; None: it may
    scores: Pointer  # [S, B, A] f64, and the next: of the policies that count pending pulls
    ranked: Pointer  # [S, B] i32
    seed: Pointer  # [1] i64
    calls: Pointer  # [1] i64
    ticket: Pointer  # i32; None: no program waits for another


@triton.jit
def put(choice, size, slot, b, row, arm, mine):
    if choice.staged is None:
        tl.store(choice.arm + row * size.table_slots + slot, arm.to(tl.int32), mask=mine)
    else:
        tl.store(choice.staged + slot * size.batch + b, arm.to(tl.int32), mask=mine)


@triton.jit
def publish(requests, choice, size, ROWS: tl.constexpr):
    """The staged arms of every row, by the last program: nobody reads the old ones any more."""
    for begin in range(0, size.batch, ROWS):
        b = begin + tl.arange(0, ROWS)
        row, group = group_of(requests, size, b)
        for slot in range(size.table_slots):
            staged = choice.staged + slot * size.batch + b
            arm = tl.load(staged, mask=group >= 0, other=0, cache_modifier=".cg")
            tl.store(choice.arm + row * size.table_slots + slot, arm, mask=group >= 0)


@triton.jit
def finish(requests, choice, size, ROWS: tl.constexpr):
    """One call more, when every program has read the number of calls."""
    last = tl.program_id(0) == 0
    if choice.ticket is not None:
        tl.debug_barrier()
        last = tl.atomic_add(choice.ticket, 1, sem="acq_rel") == tl.num_programs(0) - 1
    if last:
        if choice.ticket is not None:
            tl.store(choice.ticket, 0)
        if choice.staged is not None:
            publish(requests, choice, size, ROWS)
        tl.store(choice.calls, tl.load(choice.calls) + 1)
