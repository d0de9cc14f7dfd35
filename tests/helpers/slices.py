"""``@pytest.mark.sliced(n)``: of a test's cases one in n runs, the rest is slow.

Each backend has its own cases: n backends run all of them between them, within one each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest

GOLDEN = (5**0.5 - 1) / 2  # its multiples lie evenly, whatever the axes of a product
FIXTURES = ("backend", "compiled", "native", "library", "trees", "triton", "gpu")


def positions(cases: int, n: int, turn: int) -> list[int]:
    """Of ``cases``, one in n and one at least; another ``turn`` takes others."""
    order = sorted(range(cases), key=lambda i: (i * GOLDEN + turn / n) % 1)
    return sorted(order[: -(-cases // n)])


def mark(items: Sequence[pytest.Item], backends: Sequence[str]) -> None:
    """Marks as slow what is outside its test's slice; what is slow anyway has no part in it."""
    groups = defaultdict(list)
    for item in items:
        sliced = item.get_closest_marker("sliced")
        if sliced and not item.get_closest_marker("slow"):
            key = item.nodeid.partition("[")[0], backend_of(item), sliced.args[0]
            groups[key].append(item)
    for (_, backend, n), cases in groups.items():
        chosen = positions(len(cases), n, backends.index(backend) if backend else 0)
        for i in set(range(len(cases))) - set(chosen):
            cases[i].add_marker(pytest.mark.slow)


def backend_of(item: pytest.Item) -> str | None:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return next((params[name] for name in FIXTURES if name in params), None)
