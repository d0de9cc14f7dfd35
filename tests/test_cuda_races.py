"""No CUDA kernel has a race: each CUDA thread as a thread of ThreadSanitizer, on tiny grids.

What orders memory there is what does on the chip: barriers, tickets, acquire and release; shuffles
do not.  The sanitizer cannot be loaded into Python, so kernels run in programs of their own.
Compiling takes a while: these are slow, and ``make sanitize`` runs them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import emulation
from test_emulation import PROBES

from tapout_kernels.reference.accept import RULES
from tapout_kernels.reference.bandit import POLICIES
from tapout_kernels.reference.tree import TREE_RULES

RULED = ("sample", "draft_step", "verify")
CHOOSING = ("bandit_select", "bandit_step")
PLAIN = ("row_stats", "proposal_reset", "proposal_load", "bandit_update", "tree_layout",
         "tree_mask", "tree_mask_flat", "tree_rerank", "compact_kv")  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("emulation")]


@pytest.fixture(scope="module")
def program() -> Path:
    sources = [*emulation.KERNELS, Path("tests/native/race_check.cpp")]
    return emulation.compiled("race_check", sources, link=(), sanitizer="thread")


@pytest.mark.parametrize(
    ("op", "number"),
    [(op, 0) for op in PLAIN]
    + [(op, number) for op in RULED for number in range(len(RULES))]
    + [("tree_expand", drawn) for drawn in range(2)]
    + [("tree_verify", number) for number in TREE_RULES.values()]
    + [(op, number) for op in CHOOSING for number in sorted(set(POLICIES.values()))],
)
def test_no_races(program, op, number):
    assert not emulation.races(program, op, str(number))


# ---- what the check must find --------------------------------------------------------------------


@pytest.fixture(scope="module")
def race_probes() -> Path:
    sources = [PROBES, Path("tests/native/race_probes.cpp")]
    return emulation.compiled("race_probes", sources, link=(), sanitizer="thread")


@pytest.mark.parametrize("name", ["right", "release", "syncwarp"])
def test_a_right_kernel_has_no_race(race_probes, name):
    assert not emulation.races(race_probes, name)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("missing_barrier", "missing_barrier"),
        ("missing_ticket", "missing_ticket"),
        ("missing_release", "handed_over"),
        ("missing_syncwarp", "exchanged"),
    ],
)
def test_a_race_is_reported(race_probes, name, function):
    """Those that no order of the emulator shows, too: what one thread wrote is there at once."""
    report = emulation.races(race_probes, name)
    assert "ThreadSanitizer: data race" in report
    assert function in report
    assert str(PROBES) in report
