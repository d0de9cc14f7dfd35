"""No CUDA kernel has a race: each CUDA thread as a thread of ThreadSanitizer, on tiny grids.

What orders memory there is what does on the chip: barriers, tickets, acquire and release; shuffles
do not.  Compiling takes a while, so these are slow; ``make sanitize`` runs them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import emulation

from tapout_kernels.reference.accept import RULES
from tapout_kernels.reference.bandit import POLICIES

RULED = ("sample", "draft_step", "verify")
CHOOSING = ("bandit_select", "bandit_step")
PLAIN = ("row_stats", "proposal_reset", "proposal_load", "bandit_update")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("emulation")]


@pytest.fixture(scope="module")
def program() -> Path:
    sources = [*emulation.KERNELS, Path("tests/native/race_check.cpp")]
    return emulation.compiled("race_check", sources, link=(), sanitizer="thread")


@pytest.mark.parametrize(
    ("op", "number"),
    [(op, 0) for op in PLAIN]
    + [(op, number) for op in RULED for number in range(len(RULES))]
    + [(op, number) for op in CHOOSING for number in range(len(POLICIES))],
)
def test_no_races(program, op, number):
    assert not emulation.races(program, op, str(number))
