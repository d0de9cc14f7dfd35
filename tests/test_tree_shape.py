"""Shapes and templates: Medusa's lists, Sequoia's dynamic programme against all trees there are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tapout_kernels import TreeShape, sequoia_tree, tree_template


def paths_of(parents: list[int]) -> list[tuple[int, ...]]:
    """Which child of which child every node is."""
    found, seen = [], {}
    for parent in parents:
        rank = seen.get(parent, 0)
        seen[parent] = rank + 1
        found.append((*(found[parent] if parent >= 0 else ()), rank))
    return found


def accepted(paths, rates) -> float:
    return sum(math.prod(rates[k] for k in path) for path in paths)


def all_trees(nodes: int, children: int, depth: int) -> set[frozenset]:
    """Of up to that many nodes, as sets of paths."""
    found, last = set(), {frozenset()}
    for _ in range(nodes):
        grown = set()
        for tree in last:
            for path in [(), *tree]:
                rank = sum(other[:-1] == path for other in tree)
                if len(path) < depth and rank < children:
                    grown.add(tree | {(*path, rank)})
        last = grown
        found |= grown
    return found


@pytest.mark.parametrize("depth", [1, 2, 3, None])
@pytest.mark.parametrize("nodes", [1, 2, 4, 6])
def test_sequoia_trees_are_the_best_there_are(nodes, depth):
    """Falling, rising and arbitrary acceptance."""
    every = all_trees(nodes, 3, depth or nodes)
    generator = np.random.default_rng(nodes)
    for rates in ([0.7, 0.2, 0.1], [0.1, 0.3, 0.9], [1.0, 0.0, 0.5], *generator.random((6, 3))):
        parents = sequoia_tree(rates, nodes, depth)
        paths = paths_of(parents)
        assert frozenset(paths) in every
        best = max(accepted(tree, rates) for tree in every)
        assert accepted(paths, rates) == pytest.approx(best, abs=1e-12)
        TreeShape.static(parents)


def test_sequoia_trees_by_hand():
    assert sequoia_tree([0.9, 0.05], nodes=3) == [-1, 0, 1], "a chain"
    assert sequoia_tree([0.9, 0.05], nodes=3, depth=1) == [-1, -1], "two children, no room"
    assert sequoia_tree([0.4, 0.4], nodes=2) == [-1, -1]
    assert sequoia_tree([0.0, 0.5], nodes=4) == [-1, -1, 1, 1], "first children lead to second ones"
    assert sequoia_tree([0.5, 0.0], nodes=2, depth=1) == [-1]


def test_templates_are_numbered_level_by_level():
    choices = [(1,), (0, 0, 1), (0,), (0, 0), (0, 1), (0, 0, 0), (1, 0)]
    assert tree_template(choices) == [-1, -1, 0, 0, 1, 2, 2]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(choices))
        assert tree_template([choices[i] for i in order]) == [-1, -1, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    "choices", [[(0, 0)], [(1,)], [(0,), (0,)], [()], [(0,), (0, 1)], [(-1,)], [(0,), (2,), (1, 0)]]
)
def test_lists_that_are_no_tree_are_refused(choices):
    with pytest.raises(ValueError, match="tree_template: choices must"):
        tree_template(choices)


def test_levels_of_a_static_shape():
    shape = TreeShape.static([-1, -1, -1, 0, 0, 2, 3, 5])
    assert [level.rows for level in shape.levels] == [1, 2, 2]
    assert [level.nodes for level in shape.levels] == [(-1,), (0, 2), (3, 5)]
    assert [level.child_start for level in shape.levels] == [(0, 3), (3, 5, 6), (6, 7, 8)]
    assert [level.children for level in shape.levels] == [3, 2, 1]


def test_levels_of_a_dynamic_shape():
    shape = TreeShape.dynamic(depth=3, top_k=2, nodes=10)
    assert [level.child_start for level in shape.levels] == [(0, 2), (2, 4, 6), (6, 8, 10)]
    assert shape.candidates == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TreeShape.static([]), "TreeShape.static: parents must have 1 to 1024 .*, got 0"),
        (lambda: TreeShape.static([-1] * 1025), "got 1025"),
        (lambda: TreeShape.static([0]), "TreeShape.static: parents must be a tree"),
        (lambda: TreeShape.static([-1, -2]), "TreeShape.static: parents must be a tree"),
        (lambda: TreeShape.static([-1, 0, -1]), "parents must be level by level"),
        (lambda: TreeShape.dynamic(0, 2, 1), "TreeShape.dynamic: depth and top_k must be >= 1"),
        (lambda: TreeShape.dynamic(2, 2, 7), r"dynamic: nodes must be in \[1, 6\], got 7"),
        (lambda: sequoia_tree([], 3), "sequoia_tree: acceptance must hold numbers"),
        (lambda: sequoia_tree([1.2], 3), "sequoia_tree: acceptance must hold numbers"),
        (lambda: sequoia_tree([math.nan], 3), "sequoia_tree: acceptance must hold numbers"),
        (lambda: sequoia_tree([0.5], 0), "sequoia_tree: nodes must be in"),
        (lambda: sequoia_tree([0.5], 3, 0), "sequoia_tree: nodes must be in"),
    ],
)  # fmt: skip
def test_shapes_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
