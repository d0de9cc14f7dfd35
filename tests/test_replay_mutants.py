"""Deliberately wrong replays: each must be killed by a named test of test_replay.py.

As for the native mutants, one copy of the source holds all of them and is compiled once.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pybind11
import pytest
import test_replay
from helpers.core_probe import ROOT, compiler
from helpers.killers import Killer, Mutant
from helpers.mutants import Edit
from helpers.native_mutants import HEADER, chosen

import tapout_kernels.replay

SEQUENCE, PADDED, TOKEN, ALONE = (
    Killer(test_replay.test_every_round_is_that_of_the_operators,
           policy="ucb1", reward=reward, level=level, batch=batch, padded=padded)
    for reward, level, batch, padded in (
        ("throughput", "sequence", 3, False), ("throughput", "sequence", 3, True),
        ("decision", "token", 3, False), ("blend", "sequence", 1, False),
    )
)  # fmt: skip
FORGETS = Killer(test_replay.test_stop_rules_forget_between_requests)
ORACLE = Killer(test_replay.test_the_oracle_is_the_best_of_every_path)
HEDGE = Killer(test_replay.test_hedges_over_drafters, policy="normalhedge", batch=3)
REPLAY, LEARNER, TEXT = "host/replay.cpp", "host/learner.cpp", "host/full_information.cpp"
MUTANTS = {
    "memory of the request before": Mutant((Edit(REPLAY, "learner_.admit(b);", ";"),), FORGETS),
    "drafts longer than allowed": Mutant(
        (Edit(REPLAY, "std::min<int64_t>(table_.budget[p], table_.slots)", "table_.slots"),), ALONE
    ),
    "every draft accepted": Mutant(
        (Edit(REPLAY, "std::min(table_.accepted[cell], draft.length)", "draft.length"),), ALONE
    ),
    "the first drafter whether it offers or not": Mutant(
        (Edit(REPLAY, "!table_.always[turn[i]] && offered[turn[i]] == 0", "false"),), ALONE
    ),
    "drafters are changed for nothing": Mutant(
        (Edit(REPLAY, "behind * costs_.catch_up[turn.drafter]", "0.0 * behind"),), ALONE
    ),
    "a drafter that was not asked has read along": Mutant(
        (Edit(REPLAY, "if (turn.drafted == 0) return 0.0;", ";"),), ALONE
    ),
    "rows learnt from once for each drafter": Mutant(
        (Edit(REPLAY, "played_.turns[i].drafter == drafter", "true"),), SEQUENCE
    ),
    "one cost for all drafters": Mutant(
        (Edit(REPLAY, "costs_.ratio[(alive_ - 1) * table_.drafters + drafter]",
              "costs_.ratio[0]"),), SEQUENCE
    ),
    "draft steps as dear as of all rows": Mutant(
        (Edit(REPLAY, "costs_.padded ? alive_ : rows[j]", "alive_"),), SEQUENCE
    ),
    "padded draft steps of some rows": Mutant(
        (Edit(REPLAY, "costs_.padded ? alive_ : rows[j]", "rows[j]"),), PADDED
    ),
    "verification as long as the last draft": Mutant(
        (Edit(REPLAY, "std::max(longest, drafted)", "drafted"),), PADDED
    ),
    "a row's drafts verified for all": Mutant(
        (Edit(REPLAY, "more / static_cast<double>(alive_)", "more"),), SEQUENCE
    ),
    "no pre-draft test": Mutant(
        (Edit(LEARNER, "stops_before_drafting(rules_, row)", "false"),), ALONE
    ),
    "why a draft ended is lost": Mutant(
        (Edit(LEARNER, "return {j + 1, StopReason::kRule};",
              "return {j + 1, StopReason::kMaxLength};"),), TOKEN,
    ),
    "the last round of a request is judged": Mutant(
        (Edit(REPLAY, "if (row.position == row.end) continue;", ""),), HEDGE
    ),
    "positions of the request before": Mutant(
        (Edit(TEXT, "std::max(start, from - arms_.horizon + 1)", "from - arms_.horizon + 1"),),
        HEDGE,
    ),
    "positions judged before their tokens are known": Mutant(
        (Edit(TEXT, "t + arms_.horizon <= to", "t + arms_.horizon <= to + 1"),), HEDGE
    ),
    "one discount a round of the text": Mutant(
        (Edit(TEXT, "keep *= bandit_.params[kDiscount];", "keep = bandit_.params[kDiscount];"),),
        HEDGE,
    ),
    "rounds teach hedges over drafters too": Mutant(
        (Edit(LEARNER, "update_.count = tally_.data();", ""),), HEDGE
    ),
    "only who drafted reads on": Mutant(
        (Edit(REPLAY, "row.position < row.end ? following(turn.emitted) : 0.0", "0.0"),),
        HEDGE,
    ),
    "an oracle that drafts what is not offered": Mutant(
        (Edit(REPLAY, "std::min<int64_t>(table.offered[cell], budget)", "budget"),), ORACLE
    ),
    "an oracle that ignores budgets": Mutant(
        (Edit(REPLAY, "std::min<int64_t>(table.budget[p], table.slots)", "table.slots"),), ORACLE
    ),
}  # fmt: skip
MODULE = '#include "bind_replay.h"\nPYBIND11_MODULE(_host, m) { tapout::bind_replay(m); }\n'
SOURCES = ("host/bind_replay.cpp", REPLAY, LEARNER, TEXT, "cpu/bandit_select.cpp",
           "cpu/bandit_update.cpp", "host/mutants.cpp")  # fmt: skip
FLAGS = ("-O1", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno",
         "-fvisibility=hidden", "-DTAPOUT_ISA=host")  # fmt: skip
KILLERS = {mutant.killer.name: mutant.killer for mutant in MUTANTS.values()}
pytestmark = pytest.mark.xdist_group("replay mutants")


class Mutants:
    """The compiled copy in the place of the host library."""

    def __init__(self, folder: Path):
        for layer in ("core", "cpu", "host"):
            shutil.copytree(ROOT / "csrc" / layer, folder / layer)
        edits = [(n, edit) for n, mutant in enumerate(MUTANTS.values(), 1) for edit in mutant.edits]
        for file in {edit.file for _, edit in edits}:
            own = [entry for entry in edits if entry[1].file == file]
            (folder / file).write_text(chosen((folder / file).read_text(), file, own))
        (folder / "mutant.h").write_text(HEADER)
        (folder / "host/mutants.cpp").write_text("int tapout_mutant = 0;\n" + MODULE)
        path = folder / f"_host{sysconfig.get_config_var('EXT_SUFFIX')}"
        headers = ("-I", pybind11.get_include(), "-I", sysconfig.get_path("include"))
        subprocess.run(
            [compiler(), *FLAGS, *headers, "-include", folder / "mutant.h",
             *(folder / source for source in SOURCES), "-o", path],
            check=True,
        )  # fmt: skip
        spec = importlib.util.spec_from_file_location("_host", path)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.number = ctypes.c_int.in_dll(ctypes.CDLL(str(path)), "tapout_mutant")

    @contextlib.contextmanager
    def running(self, number: int) -> Iterator[None]:
        shipped = tapout_kernels.replay._host
        tapout_kernels.replay._host, self.number.value = self.module, number
        try:
            yield
        finally:
            tapout_kernels.replay._host, self.number.value = shipped, 0


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Mutants:
    return Mutants(tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("name", MUTANTS)
def test_replay_mutant_is_killed(mutants, name):
    killer = MUTANTS[name].killer
    with mutants.running(1 + list(MUTANTS).index(name)), pytest.raises(AssertionError):
        killer.run("cpu")
    print(f"killed: {name} (by {killer.name})")


@pytest.mark.parametrize("name", KILLERS)
def test_the_source_as_it_is_survives(mutants, name):
    with mutants.running(0):
        KILLERS[name].run("cpu")
