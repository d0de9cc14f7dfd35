"""Who finishes what several programs began."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def arrives_last(ticket, arrivals):
    """Whether this program is the last of ``arrivals``; then it sees what the others stored.

    The ticket is 0 again afterwards.  What was stored must be loaded with ``.cg``: the L1 of this
    multiprocessor may hold older lines.
    """
    tl.debug_barrier()  # stores of every thread come before the one thread's release
    last = tl.atomic_add(ticket, 1, sem="acq_rel") == arrivals - 1
    if last:
        tl.store(ticket, 0)
    return last
