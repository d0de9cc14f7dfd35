"""Deliberately wrong kernels between the parts of a round: each must be killed by a named test."""

from __future__ import annotations

import gc
import traceback
from pathlib import Path

import pytest
import test_round_graph
from helpers import fake_driver
from helpers.killers import Killer, Mutant
from helpers.mutants import Edit

LOOP = Killer(test_round_graph.test_a_launch_is_the_loop_that_asks, widths=(1, 3, 5))
MUTANTS = {
    "a step more than there are slots": Mutant(
        (Edit("core/graph_loop.h", "steps < slots", "steps <= slots"),), LOOP
    ),
    "drafts on until num_active is 0": Mutant(
        (Edit("core/graph_loop.h", "num_active > 0", "num_active != 0"),), LOOP
    ),
    "drafts once whoever drafts": Mutant(
        (Edit("cuda/graph_loop.cu", "drafts_on(*num_active, 0, slots)", "true"),), LOOP
    ),
    "a forward as wide as the draft is too narrow": Mutant(
        (Edit("core/graph_loop.h", "widths.width[i] < steps", "widths.width[i] <= steps"),), LOOP
    ),
    "every forward that is wide enough": Mutant(
        (Edit("cuda/graph_loop.cu", "i == chosen", "i >= chosen"),), LOOP
    ),
    "steps go on from the round before": Mutant(
        (Edit("cuda/graph_loop.cu", "*steps = 0;", "*steps += 0;"),), LOOP
    ),
    "forwards of earlier rounds stay chosen": Mutant(
        (Edit("cuda/graph_loop.cu", "cudaGraphSetConditional(widths.handle[i], i == chosen);",
              "if (i == chosen) cudaGraphSetConditional(widths.handle[i], 1);"),), LOOP,
    ),
}  # fmt: skip
# Compiled once, so one worker runs them.
pytestmark = pytest.mark.xdist_group("round graph mutants")


@pytest.fixture(scope="module")
def library() -> Path:
    return fake_driver.mutants([mutant.edits for mutant in MUTANTS.values()])


def fails(library: Path, number: int, killer: Killer, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the killer, or the driver it runs on, finds something wrong."""
    try:
        with fake_driver.in_place(monkeypatch, library) as driver:
            driver.choose_mutant(number)
            killer.run("cuda", driver=driver)
    except (AssertionError, RuntimeError) as error:
        traceback.clear_frames(error.__traceback__)  # the rounds in them are the driver's
        gc.collect()
        return True
    return False


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(library, name, monkeypatch):
    killer = MUTANTS[name].killer
    assert fails(library, 1 + list(MUTANTS).index(name), killer, monkeypatch)
    print(f"killed: {name} (by {killer.name})")


def test_the_source_as_it_is_survives(library, monkeypatch):
    assert not fails(library, 0, LOOP, monkeypatch)
