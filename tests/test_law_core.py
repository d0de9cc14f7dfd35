"""csrc/core's acceptance, residual, inverse CDF and stop tests have exactly the target's law.

The functions every kernel is made of take their uniforms as data: each outcome's measure is found
by bisection on the 2**-52 lattice, as in test_law_exact.py, and a round of K = 3 drafts at V = 3 is
enumerated: draft x stop x accept x residual.  All float64, so the law agrees to rounding.
More tables for the block rule alone: test_core_block.py.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np
import pytest
from helpers import setups
from helpers.oracle import complete, markov, processed, softmax
from test_core_block import Block

VOCAB, SLOTS, START = 3, 3, 0
LATTICE = 1 << 52
EXACT = 1e-9
TARGET, DRAFT = setups.chains(VOCAB, seed=3)


def measure(below: Callable[[float], bool]) -> float:
    """Measure of {u : below(u)}, where below is true up to a threshold."""
    low, high = 0, LATTICE
    while low < high:
        middle = (low + high) // 2
        if below((middle + 0.5) / LATTICE):
            low = middle + 1
        else:
            high = middle
    return low / LATTICE


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class Core:
    """Laws of the single decisions, integrated."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library
        self.accepted = functools.cache(self._accepted)
        self.drawn = functools.cache(self._drawn)

    def _accepted(self, p_target: float, p_draft: float) -> float:
        return measure(lambda u: bool(self.library.probe_accepts(u, p_target, p_draft)))

    def _drawn(self, weights: tuple[float, ...]) -> np.ndarray:
        row, before = np.array(weights), ctypes.c_double()

        def draw(u: float) -> int:
            return self.library.probe_inverse_cdf(
                pointer(row), len(row), u * sum(weights), ctypes.byref(before)
            )

        at_most = [measure(lambda u, v=v: draw(u) <= v) for v in range(len(row) - 1)]
        return np.diff([0.0, *at_most, 1.0])

    def residual(self, p_target: np.ndarray, p_draft: np.ndarray) -> np.ndarray:
        found = tuple(map(self.library.probe_residual, p_target, p_draft))
        return self.drawn(found if sum(found) > 0 else tuple(p_target))

    def stops(self, arm: int, path: list[int], tables: np.ndarray) -> bool:
        """After the tokens drafted from the contexts of ``path``, the last one included."""
        if arm < 0:
            return False
        estimated, arm = arm == setups.ESTIMATED, min(arm, setups.SURVIVAL)
        rules = setups.RULES
        param, memory = rules.param[arm].numpy(), rules.initial_memory[arm].numpy()
        stats = np.zeros((SLOTS, 8), dtype=np.float32)
        for j, context in enumerate(path):
            p = softmax(tables[context], 1.0)
            best = np.sort(p)[::-1]
            stats[j, 1:4] = -(p * np.log(p)).sum(), best[0], best[1]
            stats[j, 7] = 0.4 + 0.2 * context if estimated else 0
        kind, slot = int(rules.kind[arm]), len(path) - 1
        return bool(self.library.probe_stops(
            kind, pointer(param), pointer(memory), 1, slot, pointer(stats)
        ))  # fmt: skip

    def drafts_nothing(self, arm: int) -> bool:
        rules = setups.RULES
        return 0 <= arm < len(rules) and bool(self.library.probe_stops_before(
            int(rules.kind[arm]), pointer(rules.param[arm].numpy()),
            pointer(rules.initial_memory[arm].numpy()), 0,
        ))  # fmt: skip


def paths(core: Core, arm: int, q: np.ndarray, one_hot: bool):
    """(drafted tokens, probability) of every draft the stop rule lets happen."""
    frontier = [((), 1.0)]
    if core.drafts_nothing(arm):
        yield frontier[0]
        return
    while frontier:
        tokens, weight = frontier.pop()
        contexts = [START, *tokens]
        law = np.eye(VOCAB)[DRAFT[contexts[-1]].argmax()] if one_hot else core.drawn(
            tuple(q[contexts[-1]])
        )  # fmt: skip
        for token in np.flatnonzero(law):
            longer = (*tokens, int(token)), weight * law[token]
            done = len(longer[0]) == SLOTS or core.stops(arm, contexts, DRAFT)
            if done:
                yield longer
            else:
                frontier.append(longer)


def endings(
    core: Core, rule: str, tokens: tuple[int, ...], p: np.ndarray, q: np.ndarray, one_hot: bool
):
    """(accepted drafts, probability, law of the next token) of one draft."""
    contexts = [START, *tokens]

    def drafted(i: int) -> np.ndarray:
        return np.eye(VOCAB)[tokens[i]] if one_hot else q[contexts[i]]

    if rule == "block":
        for level, mass, weight in Block(core.library, p, q, one_hot).levels(tokens):
            if level < len(tokens) and mass > 0:
                yield level, mass, core.residual(weight * p[contexts[level]], drafted(level))
            elif mass > 0:
                yield level, mass, core.drawn(tuple(p[contexts[-1]]))
        return
    left = 1.0
    for i, token in enumerate(tokens):
        accepted = core.accepted(p[contexts[i], token], drafted(i)[token])
        if accepted < 1:
            yield i, left * (1 - accepted), core.residual(p[contexts[i]], drafted(i))
        left *= accepted
    yield len(tokens), left, core.drawn(tuple(p[contexts[-1]]))


def round_law(
    core: Core, rule: str, arm: int, p: np.ndarray, q: np.ndarray, one_hot: bool
) -> np.ndarray:
    law = np.zeros((VOCAB,) * (SLOTS + 1))
    for tokens, chance in paths(core, arm, q, one_hot):
        for accepted, mass, following in endings(core, rule, tokens, p, q, one_hot):
            for token, r in enumerate(following):
                block = complete(p, (*tokens[:accepted], token), SLOTS + 1)
                law += chance * mass * r * block
    return law


@pytest.mark.parametrize("one_hot", [False, True], ids=["full", "one_hot"])
@pytest.mark.parametrize("arm", [*setups.ARMS, setups.ESTIMATED])
@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.sliced(4)
def test_law_of_core_functions_is_exact(core, rule, arm, one_hot):
    integrated = Core(core)
    for target, draft in setups.FILTER_PAIRS:
        p = np.stack([processed(row, *setups.FILTERS["target"][target]) for row in TARGET])
        q = np.stack([processed(row, *setups.FILTERS["draft"][draft]) for row in DRAFT])
        found = round_law(integrated, rule, arm, p, q, one_hot)
        assert np.abs(found - markov(p, START, SLOTS + 1)).max() <= EXACT


def test_rules_differ_in_what_they_draft(core):
    """The stop axis does something: drafts end before the last slot, or do not begin."""
    q = np.stack([softmax(row, 1.0) for row in DRAFT])
    found = {
        arm: {len(tokens) for tokens, _ in paths(Core(core), arm, q, one_hot=False)}
        for arm in (*setups.ARMS, setups.ESTIMATED)
    }
    assert found[-1] == {SLOTS}
    assert found[0] == {0}
    assert sum(bool({1, 2} & lengths) for lengths in found.values()) >= 5
    assert found[setups.SURVIVAL] != found[setups.ESTIMATED]
