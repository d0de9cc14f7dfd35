"""csrc/core's block rule, enumerated: what it emits has exactly the target's law.

Chains of V <= 3 ids and drafts of L <= 3, each decision integrated over its uniform by bisection of
the very function the kernels call.  The draft may stop at a time that depends on its own
statistics; all float64, so the law agrees to rounding.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from helpers.oracle import complete, markov, softmax

LATTICE = 1 << 52
EXACT = 1e-12
START = 0


def measure(holds: Callable[[float], int]) -> float:
    """Measure of {u : holds(u)}, where it holds up to a threshold, to 2**-52."""
    low, high = 0, LATTICE
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if holds((middle + 0.5) / LATTICE) else (low, middle)
    return low / LATTICE


class Block:
    """The rule over one chain: ``p`` and ``q`` are [V, V] target and draft tables."""

    def __init__(self, core: ctypes.CDLL, p: np.ndarray, q: np.ndarray, one_hot: bool):
        self.core, self.p, self.q, self.one_hot = core, p, q, one_hot

    def drafted(self, context: int, token: int) -> np.ndarray:
        return np.eye(len(self.q))[token] if self.one_hot else self.q[context]

    def residual(self, weight: float, context: int, token: int) -> np.ndarray:
        drafted = self.drafted(context, token)
        return np.array([
            self.core.probe_residual(weight * p, q)
            for p, q in zip(self.p[context], drafted, strict=True)
        ])  # fmt: skip

    def mass(self, weight: float, context: int, token: int) -> float:
        if self.one_hot:
            return self.core.probe_one_hot_residual(weight, self.p[context, token])
        return self.residual(weight, context, token).sum()

    def levels(self, draft: tuple[int, ...]) -> Iterator[tuple[int, float, float]]:
        """(level, its probability of being the accepted one, w)."""
        contexts, length = (START, *draft), len(draft)
        weights = [1.0]
        for context, token in zip(contexts, draft, strict=False):
            ratio = self.p[context, token], self.drafted(context, token)[token]
            weights.append(self.core.probe_block_weight(weights[-1], *ratio))
        left = 1.0
        for level in range(length, 0, -1):
            holds = self.holds(level, weights[level], contexts, draft)
            yield level, left * holds, weights[level]
            left *= 1 - holds
        yield 0, left, 1.0

    def holds(self, level: int, weight: float, contexts: tuple, draft: tuple) -> float:
        if level == len(draft):
            return measure(lambda u: self.core.probe_block_accepts_all(u, weight))
        mass = self.mass(weight, contexts[level], draft[level])
        return measure(
            lambda u: (
                self.core.probe_block_may_accept(u, weight)
                and self.core.probe_block_accepts(u, mass, weight)
            )
        )

    def law(self, draft: tuple[int, ...], steps: int) -> np.ndarray:
        """Of ``steps`` tokens: the accepted level, one more token, then the target goes on."""
        contexts = (START, *draft)
        law = np.zeros((len(self.p),) * steps)
        for level, chance, weight in self.levels(draft):
            if chance == 0:
                continue
            following = self.p[contexts[level]]
            if level < len(draft):
                left = self.residual(weight, contexts[level], draft[level])
                following = left / left.sum() if left.sum() > 0 else following
            for token, mass in enumerate(following):
                law += chance * mass * complete(self.p, (*draft[:level], token), steps)
        return law


Stops = Callable[[np.ndarray, int], bool]  # (row the token was drawn from, token)


def drafts(q: np.ndarray, slots: int, stops: Stops, one_hot: bool):
    """[(tokens, probability)]: drafting ends after a token that fires ``stops``; it is kept."""

    def grow(tokens: tuple[int, ...], chance: float):
        context = (START, *tokens)[-1]
        fired = bool(tokens) and stops(q[(START, *tokens)[-2]], tokens[-1])
        if len(tokens) == slots or fired:
            yield tokens, chance
            return
        law = np.eye(len(q))[q[context].argmax()] if one_hot else q[context]
        for token in np.flatnonzero(law):
            yield from grow((*tokens, int(token)), chance * law[token])

    return list(grow((), 1.0))


def entropy(row: np.ndarray) -> float:
    row = row[row > 0]
    return -(row * np.log(row)).sum()


def tables(vocab: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(vocab * 100 + len(kind))
    logits = 1.5 * generator.normal(size=(2, vocab, vocab))
    p, q = (np.stack([softmax(row, 1.0) for row in table]) for table in logits)
    if kind == "equal":
        q = p
    elif kind == "disjoint":
        p, q = np.eye(vocab), np.roll(np.eye(vocab), 1, axis=1)
    elif kind == "zeros":
        p[:, 0], q[:, -1] = 0, 0
        p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    return p, q


STOPS: dict[str, Stops] = {
    "never": lambda row, token: False,
    "unlikely": lambda row, token: row[token] < 0.4,
    "entropy": lambda row, token: entropy(row) > 0.7,
}


@pytest.mark.parametrize("one_hot", [False, True], ids=["full", "one_hot"])
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("kind", ["random", "zeros", "equal", "disjoint"])
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("vocab", [2, 3])
@pytest.mark.sliced(5)
def test_block_has_the_law_of_the_target(core, vocab, slots, kind, stop, one_hot):
    p, q = tables(vocab, kind)
    block = Block(core, p, q, one_hot)
    found = sum(
        chance * block.law(tokens, slots + 1)
        for tokens, chance in drafts(q, slots, STOPS[stop], one_hot)
    )
    assert np.abs(found - markov(p, START, slots + 1)).max() <= EXACT


def test_drafts_end_at_times_that_depend_on_them(core):
    """The stop axis does something: one table, drafts of several lengths."""
    _, q = tables(3, "random")
    lengths = {stop: {len(t) for t, _ in drafts(q, 3, STOPS[stop], False)} for stop in STOPS}
    assert lengths["never"] == {3}
    assert lengths["unlikely"] == {1, 2, 3}


def test_block_accepts_at_least_as_many_as_token(core):
    p, q = tables(3, "random")
    block = Block(core, p, q, one_hot=False)
    expected = functools.partial(sum, start=0.0)
    by_block = expected(
        chance * level * mass
        for tokens, chance in drafts(q, 3, STOPS["never"], False)
        for level, mass, _ in block.levels(tokens)
    )
    by_token = expected(
        chance * np.prod(_ratios(p, q, tokens)[: i + 1])
        for tokens, chance in drafts(q, 3, STOPS["never"], False)
        for i in range(3)
    )
    assert by_block > by_token + 1e-3


def _ratios(p: np.ndarray, q: np.ndarray, tokens: tuple[int, ...]) -> list[float]:
    contexts = (START, *tokens)
    return [min(1.0, p[a, b] / q[a, b]) for a, b in zip(contexts, tokens, strict=False)]


def test_decisions_at_their_edges(core):
    assert core.probe_block_weight(1.0, 0.25, 0.5) == 0.5
    assert core.probe_block_weight(0.5, 0.5, 0.125) == 1.0  # never above 1
    assert core.probe_block_weight(0.5, 0.0, 0.5) == 0.0
    assert core.probe_one_hot_residual(0.5, 0.75) == 0.125
    least, most = 0.5 / LATTICE, 1 - 0.5 / LATTICE
    assert core.probe_block_accepts(most, 0.0, 1.0)  # p_target = p_draft: always
    assert not core.probe_block_accepts(least, 0.0, 0.5)
    assert core.probe_block_accepts(most, 0.25, 1.0)  # w = 1: always
    assert core.probe_block_accepts(0.3332, 0.25, 0.5)  # 1/3 = .25 / (.25 + 1 - .5)
    assert not core.probe_block_accepts(0.3334, 0.25, 0.5)
    assert not core.probe_block_accepts_all(least, 0.0)
    assert not core.probe_block_accepts_all(0.5, 0.5)  # strict
    assert core.probe_block_accepts_all(most, 1.0)
