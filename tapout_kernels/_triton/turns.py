"""Programs that take one step after the other together.

A step of a request is cut into shares that its programs claim; whoever finishes the last of them
decides what the next step is.  A share that is claimed is in the hands of a program that runs, so
that waiting for a step ends however few programs run at once: one alone would claim every share.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .finish import arrives_last

DONE = tl.constexpr(2**30)  # steps decided, when there is no other


class Turns(NamedTuple):
    """[B] i32 each, 0 between launches."""

    claimed: object  # shares of all steps
    decided: object  # steps that may begin after the first
    arrived: object  # shares of this step that are finished
    left: object  # programs


@triton.jit
def claim(turns, b, shares):
    """The next share: of which step, and which."""
    mine = tl.atomic_add(turns.claimed + b, 1, sem="relaxed")
    return mine // shares, mine % shares


@triton.jit
def wait_for(turns, b, step):
    """Steps that may begin, at least ``step``.  One thread reads for all, see ``is_skipped``."""
    found = tl.atomic_add(turns.decided + b, 0, sem="acquire")
    while found < step:
        found = tl.atomic_add(turns.decided + b, 0, sem="acquire")
    return found


@triton.jit
def let_begin(turns, b, step):
    """What was stored before is seen by those who wait for the step."""
    tl.debug_barrier()
    tl.atomic_xchg(turns.decided + b, step, sem="release")


@triton.jit
def leave(turns, b, programs):
    """The last program of a request leaves its counters as it found them."""
    if arrives_last(turns.left + b, programs):
        tl.store(turns.claimed + b, 0)
        tl.store(turns.decided + b, 0)
