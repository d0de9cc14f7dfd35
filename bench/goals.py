"""What is aimed at on an H200, as data: which rows of a benchmark, which column, which bound."""

from __future__ import annotations

from typing import NamedTuple

Row = dict[str, object]


class Goal(NamedTuple):
    column: str
    at_least: bool
    bound: float
    of: Row  # the row has all of these; None: it has no such column

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.column} {sign} {self.bound:g}"


_VERIFY = {"op": "verify", "rule": "token", "K": 4, "V": 151936, "dtype": "bfloat16"}
_PLAIN, _FILTERED = {"top_k": None}, {"top_k": 50, "top_p": 0.9}
_DRAFT = {"op": "draft_step", "B": 1, "V": 128256, "top_k": None}
_TREES = (
    Goal("median_us", False, 5.0, {"op": "tree_layout", "B": 32, "N": 64}),
    Goal("of_floor", True, 0.60, {"op": "tree_verify", "B": 16, "N": 32, "V": 128256}),
    Goal("of_floor", True, 0.80, {"op": "compact_kv", "B": 32}),
)
GOALS: dict[str, tuple[Goal, ...]] = {
    "triton": (
        Goal("of_floor", True, 0.70, {**_VERIFY, **_PLAIN, "B": 32}),
        Goal("of_floor", True, 0.80, {**_VERIFY, **_PLAIN, "B": 128}),
        *(Goal("of_floor", True, 0.40, {**_VERIFY, **_FILTERED, "B": b}) for b in (32, 128)),
        *(Goal("times_compile", True, 5.0, {**_VERIFY, "B": b}) for b in (32, 128)),
        *(Goal("times_flashinfer", True, 4.0, {**_VERIFY, "B": b}) for b in (32, 128)),
        Goal("median_us", False, 8.0, _DRAFT),
        Goal("median_us", False, 4.0, {"op": "bandit step", "B": 64}),
        *_TREES,
    ),
    "cuda": (
        Goal("of_floor", True, 0.80, {**_VERIFY, **_PLAIN, "B": 32}),
        Goal("of_floor", True, 0.90, {**_VERIFY, **_PLAIN, "B": 128}),
        *(Goal("of_floor", True, 0.55, {**_VERIFY, **_FILTERED, "B": b}) for b in (32, 128)),
        Goal("of_empty_pair", False, 2.5, {**_VERIFY, **_PLAIN, "B": 1}),
        *(Goal("times_triton", True, 1.1, {**_VERIFY, "B": b}) for b in (32, 128)),
        *(Goal("times_flashinfer", True, 5.0, {**_VERIFY, "B": b}) for b in (32, 128)),
        *(Goal("times_vllm", True, 5.0, {**_VERIFY, "B": b}) for b in (32, 128)),
        Goal("median_us", False, 5.0, _DRAFT),
        Goal("times_triton", True, 1.1, _DRAFT),
        Goal("median_us", False, 4.0, {"op": "bandit step", "B": 64}),
        Goal("step_over_replay_us", False, 3.0, {"op": "round graph"}),
        *_TREES,
    ),
}


def goals_of(row: Row) -> list[tuple[Goal, bool]]:
    """The goals this row is about and has a number for, and whether each is met."""
    backend = str(row.get("backend", "")).split(" ")[0]
    found = []
    for goal in GOALS.get(backend, ()):
        value = row.get(goal.column)
        if value is None or any(row.get(name) != wanted for name, wanted in goal.of.items()):
            continue
        found.append((goal, value >= goal.bound if goal.at_least else value <= goal.bound))
    return found
