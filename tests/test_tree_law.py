"""Trees have exactly the target's law: every tree a drafter may draw, integrated, not sampled.

Bisection gives each measure to 2**-37 and a probability of the law is a sum of products of them,
so with float64 statistics 1e-9 is asserted.  With the acceptance of a child in closed form,
min(1, p_target/p_draft), the functions of ``reference/tree.py`` are held to 1e-12.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.law import Filter
from helpers.mutants import Reference
from helpers.oracle import complete
from helpers.tree_law import (
    RESIDUAL,
    TRAVERSAL,
    Trees,
    TreeSetup,
    accepted_tokens,
    drawn_trees,
    target_law,
    tree_error,
)
from test_law_exact import EXACT, FLOAT64_STATS

from tapout_kernels.reference.tree import rejected_draft, rejected_target

TOPOLOGIES = {
    "star": (-1, -1, -1),
    "chain": (-1, 0, 1),
    "binary": (-1, -1, 0, 0, 1),
    "late sibling": (-1, 0, 0, -1, 3),
    "more children than ids": (-1, -1, -1, -1, 1),
    "deep": (-1, 0, -1, 1, 1, 2),
}
FILTERS = {
    "plain": (Filter(), Filter()),
    "temperatures": (Filter(0.75), Filter(1.5)),
    "filters": (Filter(0.75, 2), Filter(1.25, 2)),
    "top-p, min-p": (Filter(top_p=0.875), Filter(min_p=0.25)),
    "zero target": (Filter(0.0), Filter()),
    "zero draft": (Filter(), Filter(0.0)),
}


def setup_of(name: str, filters: str = "plain", vocab: int = 3, seed: int = 0, **fields):
    generator = np.random.default_rng([seed, *name.encode()])
    target, draft = generator.normal(size=(2, vocab, vocab)).astype(np.float32) * 1.5
    sides = dict(zip(("target_filter", "draft_filter"), FILTERS[filters], strict=True))
    return TreeSetup(TOPOLOGIES[name], target, fields.pop("draft", draft), **sides, **fields)


def float64_reference() -> Reference:
    return Reference(FLOAT64_STATS)


@pytest.mark.parametrize("one_hot", [False, True], ids=["drawn", "one_hot"])
@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.sliced(4)
def test_law_is_exact(name, one_hot):
    assert tree_error(float64_reference(), setup_of(name, one_hot=one_hot)) <= EXACT


@pytest.mark.parametrize("one_hot", [False, True], ids=["drawn", "one_hot"])
@pytest.mark.parametrize("filters", list(FILTERS)[1:])
def test_law_is_exact_with_filters(filters, one_hot):
    assert tree_error(float64_reference(), setup_of("binary", filters, one_hot=one_hot)) <= EXACT


@pytest.mark.parametrize("seed", range(4))
def test_law_is_exact_on_random_trees(seed):
    generator = np.random.default_rng(seed)
    nodes, vocab = [(4, 4), (5, 3), (6, 3), (4, 4)][seed]
    parents = tuple(int(generator.integers(-1, i)) if i else -1 for i in range(nodes))
    target, draft = generator.normal(size=(2, vocab, vocab)).astype(np.float32)
    setup = TreeSetup(parents, target, draft, draft_filter=Filter(1.5))
    assert tree_error(float64_reference(), setup) <= EXACT, parents


TRAVERSED = [(name, "plain", True) for name in TOPOLOGIES] + [
    ("chain", "plain", False), ("more children than ids", "plain", False),
    ("star", "filters", False), ("chain", "zero draft", False), ("star", "zero target", False),
    ("binary", "temperatures", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "filters", "one_hot"), TRAVERSED)
@pytest.mark.sliced(4)
def test_law_of_leaves_first_is_exact(name, filters, one_hot):
    """One uniform for each node, each alone in deciding about what leads to it."""
    setup = setup_of(name, filters, one_hot=one_hot, rule=TRAVERSAL)
    assert tree_error(float64_reference(), setup) <= EXACT


@pytest.mark.parametrize("parents", [(-1, 0, 1), (-1, -1, 0)])
def test_leaves_first_accept_more(parents):
    """Traversal Verification 2505.12398: at least as many tokens as from the root down."""
    setup = dataclasses.replace(setup_of("star"), parents=parents)
    down = accepted_tokens(float64_reference(), setup)
    setup.rule = TRAVERSAL
    assert accepted_tokens(float64_reference(), setup) > down + 1e-3


def test_law_is_exact_with_masks():
    """Other ids are allowed after every token; the draft knows nothing of it."""
    mask = ~np.eye(3, dtype=bool)[:, [1, 2, 0]]
    assert tree_error(float64_reference(), setup_of("binary", target_mask=mask)) <= EXACT


@pytest.mark.parametrize("d2t", [(2, 0), (1, 3, 0, 2)], ids=["smaller", "foreign"])
def test_law_is_exact_with_a_draft_vocabulary(d2t):
    """Ids the draft lacks, and ids the target lacks: those are drawn, and rejected."""
    draft = np.random.default_rng(5).normal(size=(3, len(d2t))).astype(np.float32)
    setup = setup_of("late sibling", draft=draft, d2t=d2t)
    assert tree_error(float64_reference(), setup) <= EXACT
    assert (drawn_trees(setup)[0] >= 3).any() == (max(d2t) >= 3)


def test_law_of_the_shipped_operator_is_exact_up_to_float32_statistics():
    """p_draft is off by 2**-22 at most; a row uses it for each child twice, and five nodes are
    looked at."""
    assert tree_error(Reference(), setup_of("binary")) <= 2 * 5 * 2.0**-22


def test_addresses_are_those_of_nodes_and_rows():
    """No two siblings share a coin; what is emitted has an address of its own."""
    setup = setup_of("binary")
    verify = Trees(Reference(), setup, torch.tensor(drawn_trees(setup)[0]))
    read = set()
    for accept in (0.01, 0.5, 0.99):
        verify(torch.full((verify.batch, 5), accept), torch.full((verify.batch,), 0.5))
        read |= verify.read
    nodes = {slot for domain, slot in read if domain == 1}
    assert nodes == set(range(5))
    assert {slot for domain, slot in read if domain == RESIDUAL} <= set(range(6))
    assert not {slot for domain, slot in read if domain == 0}, "the draft's own noise is not used"


def reranked(setup: TreeSetup) -> tuple[np.ndarray, np.ndarray]:
    """The root's children drawn in one order and looked at in another: the likelier first."""
    trees, weight = drawn_trees(setup)
    likely = setup.p_draft()[setup.start][trees]
    return np.take_along_axis(trees, np.argsort(-likely, axis=1), 1), weight


def test_children_reranked_by_probability_are_rejected():
    """What a drafter must not do."""
    assert tree_error(float64_reference(), setup_of("star"), reranked) > 1e-3


# ---- the functions, without operators ----------------------------------------------------------


def traversed_law(setup: TreeSetup) -> np.ndarray:
    """[V] * steps, from the definition of rule ``tree_traversal`` alone: measures w p_target, and
    what is left of the chance to come as far."""
    p_target, p_draft = setup.p_target(), setup.p_draft()
    law = np.zeros((setup.vocab,) * setup.steps)

    def visit(tree, node: int, prefix: tuple, weight: float, chance: float) -> float:
        """Adds what ends at a node or under it; the chance that nothing does."""
        nonlocal law
        last = prefix[-1] if prefix else setup.start
        measure, q = weight * p_target[last], p_draft[last].copy()
        for child in setup.children(node):
            token = int(tree[child])
            if token < 0 or chance == 0:
                break
            drawn = np.eye(setup.vocab)[token] if setup.one_hot else q / q.sum()
            reached = min(1.0, measure[token] / drawn[token])
            chance = visit(tree, child, (*prefix, token), reached, chance)
            rejected = 1 - np.minimum(measure, drawn).sum()
            measure = np.maximum(measure - drawn, 0) / max(rejected, 1e-300)
            q[token] = 0
        weight = 1.0 if node < 0 else min(1.0, measure.sum())
        for token in range(setup.vocab) if measure.sum() > 0 else ():
            ends = chance * weight * measure[token] / measure.sum()
            law += ends * complete(p_target, (*prefix, token), setup.steps)
        return chance * (1 - weight)

    for tree, chance in zip(*drawn_trees(setup), strict=True):
        visit(tree, -1, (), 1.0, chance)
    return law


def analytic_law(setup: TreeSetup) -> np.ndarray:
    """[V] * steps, from what is accepted in closed form and what ``reference/tree.py`` leaves."""
    p_target, p_draft = (torch.tensor(table) for table in (setup.p_target(), setup.p_draft()))
    law = np.zeros((setup.vocab,) * setup.steps)
    for tree, chance in zip(*drawn_trees(setup), strict=True):
        rows = [(-1, (), chance)]  # node, the tokens down to it, the mass that comes there
        while rows:
            node, prefix, mass = rows.pop()
            last = prefix[-1] if prefix else setup.start
            p, q = p_target[last][None], p_draft[last][None]
            for child in setup.children(node):
                token = int(tree[child])
                if token < 0:
                    break
                drawn = q
                if setup.one_hot:
                    drawn = torch.nn.functional.one_hot(torch.tensor([token]), setup.vocab).double()
                accepted = min(1.0, (p[0, token] / drawn[0, token]).item())
                rows.append((child, (*prefix, token), mass * accepted))
                mass *= 1 - accepted
                if accepted == 1:
                    break
                p = rejected_target(p, drawn)
                q = rejected_draft(q, torch.tensor([token]))
            for token in range(setup.vocab) if mass > 0 else ():
                after = complete(setup.p_target(), (*prefix, token), setup.steps)
                law += mass * p[0, token].item() * after
    return law


@pytest.mark.parametrize("one_hot", [False, True], ids=["drawn", "one_hot"])
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.sliced(4)
def test_law_is_exact_in_closed_form(name, filters, one_hot):
    setup = setup_of(name, filters, one_hot=one_hot)
    for law in (analytic_law, traversed_law):
        assert np.abs(law(setup) - target_law(setup)).max() <= 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_law_is_exact_in_closed_form_on_random_trees(seed):
    generator = np.random.default_rng(100 + seed)
    nodes, vocab = [(6, 3), (5, 4)][seed % 2]
    parents = tuple(int(generator.integers(-1, i)) if i else -1 for i in range(nodes))
    target, draft = generator.normal(size=(2, vocab, vocab)) * 2
    setup = TreeSetup(parents, target, draft)
    assert np.abs(analytic_law(setup) - target_law(setup)).max() <= 1e-12, parents
