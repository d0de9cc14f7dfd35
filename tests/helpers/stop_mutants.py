"""Stop rules gone wrong: what each program does instead, and the test that must notice.

``REFERENCE`` are mutants of ``tapout_kernels/reference`` (name -> check of helpers/checks.py and
edits), ``CORE`` those of the headers that every compiled library shares, ``TRITON`` those of
Triton's kernels.
"""

from __future__ import annotations

import test_stop_memory as tests

from .killers import Killer, Mutant
from .learning import EPISODES, MAX_LENGTH
from .mutants import Edit

BY_HAND = {name: Killer(tests.test_memory_by_hand, episode=name) for name in EPISODES}
NO_DRAFT = Killer(tests.test_a_round_without_a_draft, rule="heuristic", reason=MAX_LENGTH)
SILENT = Killer(tests.test_what_teaches_nothing_is_not_remembered, rule="adl", why="not verified")
LAST_SLOT = Killer(tests.test_token_level_teaches_the_arm_of_the_last_drafted_slot)
PROBES = Killer(tests.test_hysteresis_probes_while_it_is_off)
PREDICTED = Killer(tests.test_predicted_length, elsewhere=False)
LOADED = Killer(tests.test_predicted_length, elsewhere=True)
ADASD = Killer(tests.test_adasd_entropy_stops_between_what_was_accepted_and_what_was_rejected)
LENGTHS = Killer(
    tests.test_lengths_of_rounds_in_a_row, rule="heuristic", params={"initial_length": 1},
    lengths=[1, 3, 4, 4, 4, 3, 2],
)  # fmt: skip

_MEMORY, _STOP = "stop_memory.py", "stop.py"
REFERENCE: dict[str, tuple[str, tuple[Edit, ...]]] = {
    "gammatune that shrinks where it should grow": ("memory of gammatune", (
        Edit(_MEMORY, "(gamma + delta).clamp(1, r.slots)", "(gamma - delta).clamp(1, r.slots)"),
    )),
    "gammatune that averages what was drafted": ("memory of gammatune", (
        Edit(_MEMORY, "eta * r.accepted).clamp", "eta * r.drafted).clamp"),
    )),
    "gammatune that rounds up what float32 does not keep": ("memory of gammatune, rounding", (
        Edit(_MEMORY, "moved = _stored((", "moved = (("),
    )),
    "heuristic with its signs swapped": ("memory of heuristic", (
        Edit(_MEMORY, "r.drafted, 2.0, -1.0)", "r.drafted, -1.0, 2.0)"),
    )),
    "hysteresis that does not count what it refused": ("memory of hysteresis", (
        Edit(_STOP, "counts_refusals=True", "counts_refusals=False"),
    )),
    "hysteresis that judges what follows a rejection": ("memory of hysteresis", (
        Edit(_MEMORY, "inside & (slot == self.accepted)", "inside & (slot >= self.accepted)"),
    )),
    "hysteresis that probes a round late": ("refusals", (
        Edit(_STOP, "memory[:, 2] + 1 < param[:, 3]", "memory[:, 2] < param[:, 3]"),
    )),
    "adasd_entropy with its means swapped": ("memory of adasd_entropy", (
        Edit(_MEMORY, "hits, misses = hits + accepted, misses + rejected",
             "accepted, rejected = rejected, accepted\n"
             "        hits, misses = hits + accepted, misses + rejected"),
    )),
    "adasd_entropy that stops where it is sure": ("lengths", (
        Edit(_STOP, "s.stats[:, ENTROPY].clamp(min=0) > threshold",
             "s.stats[:, ENTROPY].clamp(min=0) < threshold"),
    )),
    "adl that grows after a rejection": ("memory of adl", (
        Edit(_MEMORY, "accepted >= generated, delta, 0.0", "accepted < generated, delta, 0.0"),
    )),
    "a remembered length off by one": ("lengths", (
        Edit(_STOP, "s.index + 1 >= s.memory[:, 0]", "s.index >= s.memory[:, 0]"),
    )),
    "gammatune_plus without its threshold": ("lengths", (
        Edit(_STOP, "_remembered_length(s) | (s.stats", "_remembered_length(s) & (s.stats"),
    )),
    "a prediction that is truncated": ("lengths", (
        Edit(_STOP, "(prediction.double() + 0.5).floor()", "prediction.double().floor()"),
    )),
    "a prediction of 0 that drafts": ("refusals", (
        Edit(_STOP, "refuses=lambda param, memory: memory[:, 0] <= 0", "refuses=_never"),
    )),
    "the first arm learns, whichever ran": ("memory of heuristic", (
        Edit("bandit_update.py", "cell = row * memory.shape[1] + known",
             "cell = row * memory.shape[1] + 0 * known"),
    )),
    "a round without a draft that teaches": ("memory of heuristic", (
        Edit(_STOP, "asked = drafted | finished.refused if rule.counts_refusals else drafted",
             "asked = torch.ones_like(drafted)"),
    )),
    "a round that was not verified teaches": ("unverified rounds", (
        Edit("bandit_update.py", "learns = live & (status == OK) & known", "learns = live & known"),
    )),
}  # fmt: skip

CORE: dict[str, Mutant] = {
    "gammatune that shrinks where it should grow": Mutant(
        (Edit("core/stop_memory.h", "clip(gamma + delta, 1.0, round.slots)",
              "clip(gamma - delta, 1.0, round.slots)"),), BY_HAND["gammatune"],
    ),
    "gammatune beyond K": Mutant(
        (Edit("core/stop_memory.h", "clip(gamma + delta, 1.0, round.slots)", "gamma + delta"),),
        BY_HAND["gammatune_plus"],
    ),
    "gammatune that averages what was drafted": Mutant(
        (Edit("core/stop_memory.h", "eta * round.accepted", "eta * round.drafted"),),
        BY_HAND["gammatune"],
    ),
    "heuristic with its signs swapped": Mutant(
        (Edit("core/stop_memory.h", "round.accepted >= round.drafted ? 2.0 : -1.0",
              "round.accepted >= round.drafted ? -1.0 : 2.0"),), BY_HAND["heuristic"],
    ),
    "a round without a draft that teaches": Mutant(
        (Edit("core/stop_memory.h", "if (!(round.drafted > 0.0)) return;", ""),), NO_DRAFT
    ),
    "hysteresis that does not count what it refused": Mutant(
        (Edit("core/stop_memory.h", "memory[2] += 1.0f;", "memory[2] += 0.0f;"),),
        BY_HAND["hysteresis"],
    ),
    "hysteresis that goes off where it is sure": Mutant(
        (Edit("core/stop_memory.h", "memory[0] > param[0]", "memory[0] < param[0]"),),
        BY_HAND["hysteresis"],
    ),
    "hysteresis that never probes": Mutant(
        (Edit("core/stop.h", "memory[2] + 1.0 < probe_every", "true"),), PROBES
    ),
    "what follows a rejection is judged": Mutant(
        (Edit("core/stop_memory.h",
              "round.accepted + 1.0 < inside ? round.accepted + 1.0 : inside", "inside"),),
        BY_HAND["adasd_entropy"],
    ),
    "adasd_entropy with its means swapped": Mutant(
        (Edit("core/stop_memory.h", "static_cast<double>(slot) < round.accepted",
              "static_cast<double>(slot) >= round.accepted"),), BY_HAND["adasd_entropy"],
    ),
    "adasd_entropy that stops where it is sure": Mutant(
        (Edit("core/stop.h", "(value > 0.0 ? value : 0.0) > (accepted + rejected) / 2.0",
              "(value > 0.0 ? value : 0.0) < (accepted + rejected) / 2.0"),), ADASD,
    ),
    "adl that grows after a rejection": Mutant(
        (Edit("core/stop_memory.h", "memory[2] >= memory[1]", "memory[2] < memory[1]"),),
        BY_HAND["adl"],
    ),
    "a remembered length off by one": Mutant(
        (Edit("core/stop.h", "static_cast<double>(slot + 1) >= memory[0]",
              "static_cast<double>(slot) >= memory[0]"),), LENGTHS,
    ),
    "a prediction that is truncated": Mutant(
        (Edit("core/stop.h", "floor(prediction + 0.5)", "floor(prediction)"),), PREDICTED
    ),
    "a prediction of 0 that drafts": Mutant(
        (Edit("core/stop.h", "arm_memory(rules, row, arm)[0] <= 0.0f", "false"),), LOADED
    ),
    "the first arm learns, whichever ran": Mutant(
        (Edit("core/stop_memory.h", "params.memory + (row * params.arms + arm) * kRuleParams",
              "params.memory + row * params.arms * kRuleParams"),), BY_HAND["heuristic"],
    ),
}  # fmt: skip

TRITON: dict[str, Mutant] = {
    "gammatune that shrinks where it should grow": Mutant(
        (Edit("core/stop_memory.py", "clip(memory.a + param.b, 1.0, r.slots)",
              "clip(memory.a - param.b, 1.0, r.slots)"),), BY_HAND["gammatune"],
    ),
    "gammatune that averages what was drafted": Mutant(
        (Edit("core/stop_memory.py", "param.c * r.accepted, 1.0", "param.c * r.drafted, 1.0"),),
        BY_HAND["gammatune_plus"],
    ),
    "heuristic with its signs swapped": Mutant(
        (Edit("core/stop_memory.py", "r.drafted, 2.0, -1.0", "r.drafted, -1.0, 2.0"),),
        BY_HAND["heuristic"],
    ),
    "a round without a draft that teaches": Mutant(
        (Edit("core/stop_memory.py", "learns = known & ((r.drafted > 0.0) |",
              "learns = known & ((r.drafted >= 0.0) |"),), NO_DRAFT,
    ),
    "hysteresis that does not count what it refused": Mutant(
        (Edit("core/stop_memory.py", "memory.c + 1.0", "memory.c"),), BY_HAND["hysteresis"]
    ),
    "hysteresis that never probes": Mutant(
        (Edit("core/stop.py", "(idle + 1.0 < last.to(tl.float64))", "(idle >= 0.0)"),), PROBES
    ),
    "what follows a rejection is judged": Mutant(
        (Edit("core/stop_memory.py", "(slot == r.accepted)", "(slot >= r.accepted)"),),
        BY_HAND["adasd_entropy"],
    ),
    "adasd_entropy that stops where it is sure": Mutant(
        (Edit("core/stop.py", "entropy_at(stats, slot) > between",
              "entropy_at(stats, slot) < between"),), ADASD,
    ),
    "adl that grows after a rejection": Mutant(
        (Edit("core/stop_memory.py", "accepted >= generated", "accepted < generated"),),
        BY_HAND["adl"],
    ),
    "a prediction that is truncated": Mutant(
        (Edit("core/stop.py", "tl.floor(told + 0.5)", "tl.floor(told)"),), PREDICTED
    ),
    "a prediction of 0 that drafts": Mutant(
        (Edit("core/stop.py", "(length <= 0.0)", "(length < 0.0)"),), LOADED
    ),
    "the first arm learns, whichever ran": Mutant(
        (Edit("bandit_update.py", "rules.memory + (row * size.arms + ran) * RULE_PARAMS",
              "rules.memory + row * size.arms * RULE_PARAMS"),), BY_HAND["heuristic"],
    ),
    "a round that was not verified teaches": Mutant(
        (Edit("bandit_update.py",
              "mine & (tl.load(rounds.status + b, mask=mine, other=1) == 0)", "mine"),), SILENT,
    ),
    "the arm of slot 0 learns, not that of the last": Mutant(
        (Edit("bandit_update.py", "known_arm(arms_of_row, size, last, mine & (slot == 0))",
              "known_arm(arms_of_row, size, last * 0, mine & (slot == 0))"),), LAST_SLOT,
    ),
}  # fmt: skip
# What a library does for itself.
CPU: dict[str, Mutant] = {
    "a round that was not verified teaches": Mutant(
        (Edit("cpu/bandit_update.cpp", "static_cast<Status>(params.status[b]) != Status::kOk",
              "false"),), SILENT,
    ),
    "the arm of slot 0 learns, not that of the last": Mutant(
        (Edit("cpu/bandit_update.cpp", "arm[last_slot(params, b)]", "arm[0]"),), LAST_SLOT
    ),
}  # fmt: skip
CUDA: dict[str, Mutant] = {
    "a round that was not verified teaches": Mutant(
        (Edit("cuda/bandit_learn.cuh", "static_cast<Status>(params.status[b]) != Status::kOk",
              "false"),), SILENT,
    ),
    "the arm of slot 0 learns, not that of the last": Mutant(
        (Edit("cuda/bandit_learn.cuh", "arm[last > 0 ? last - 1 : 0]", "arm[0]"),), LAST_SLOT
    ),
}  # fmt: skip
