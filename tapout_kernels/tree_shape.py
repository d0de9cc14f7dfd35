"""Shapes of drafted trees, known before anything is drafted: templates, and EAGLE-2's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .tree import MOST_NODES


class TreeLevel(NamedTuple):
    """Rows of logits of one level and their children.

    Parameters
    ----------
    rows : int
        W, how many nodes are expanded.
    child_start : tuple of int
        W + 1 node indices: the children of row w are the nodes from entry w up to entry w + 1.
    children : int
        Of a row, at most.
    nodes : tuple of int or None
        The nodes that are expanded (-1: the root), or None: the best of the level before.
    """

    rows: int
    child_start: tuple[int, ...]
    children: int
    nodes: tuple[int, ...] | None


@dataclass(frozen=True)
class TreeShape:
    """What :func:`tapout_kernels.tree_expand` grows, level by level.

    Made by :meth:`static` or :meth:`dynamic`. A static shape says which row has how many children
    before anything is drafted, so its children may be drawn. In a dynamic one the best nodes of a
    level are expanded, and at the end the best of all are the tree: that is for deterministic
    children alone.

    Parameters
    ----------
    levels : tuple of TreeLevel
    candidates : int
        Nodes that are drafted.
    nodes : int
        N, nodes of the tree that is verified.
    parents : tuple of int or None
        Of a static shape, level by level.
    """

    levels: tuple[TreeLevel, ...]
    candidates: int
    nodes: int
    parents: tuple[int, ...] | None

    @property
    def depth(self) -> int:
        return len(self.levels)

    @classmethod
    def static(cls, parents: Sequence[int]) -> TreeShape:
        """A template: every row has the children it has in ``parents``.

        Parameters
        ----------
        parents : sequence of int
            Of each node, -1 for the root's, level by level with siblings side by side, as
            :func:`tree_template` and :func:`sequoia_tree` make them.

        Raises
        ------
        ValueError
            If that is no tree, not in that order, or has more than 1024 nodes.

        Examples
        --------
        >>> [level.child_start for level in TreeShape.static([-1, -1, 0, 0, 1]).levels]
        [(0, 2), (2, 4, 5)]
        """
        parents = tuple(int(parent) for parent in parents)
        if not 1 <= len(parents) <= MOST_NODES:
            raise ValueError(
                f"TreeShape.static: parents must have 1 to {MOST_NODES} nodes, got {len(parents)}"
            )
        if any(not -1 <= parent < i for i, parent in enumerate(parents)):
            raise ValueError("TreeShape.static: parents must be a tree, parents before children")
        if list(parents) != sorted(parents):
            raise ValueError(
                "TreeShape.static: parents must be level by level, siblings side by side, "
                f"got {list(parents)}"
            )
        levels, rows, begin = [], (-1,), 0
        while begin < len(parents):
            rows = tuple(row for row in rows if row in parents)
            counts = [parents.count(row) for row in rows]
            start = (begin, *(begin + int(x) for x in np.cumsum(counts)))
            levels.append(TreeLevel(len(rows), start, max(counts), rows))
            rows, begin = tuple(range(begin, start[-1])), start[-1]
        return cls(tuple(levels), len(parents), len(parents), parents)

    @classmethod
    def dynamic(cls, depth: int, top_k: int, nodes: int) -> TreeShape:
        """EAGLE-2's (2406.16858): the ``top_k`` best nodes of a level get ``top_k`` children each.

        Best is the largest product of probabilities down from the root. The tree is the ``nodes``
        best of all, of which every one has its parent among them.

        Parameters
        ----------
        depth : int
            Levels.
        top_k : int
            Rows of every level but the first, and children of a row.
        nodes : int
            N, at most 1024 and what is drafted.

        Raises
        ------
        ValueError
            For sizes that are not positive, or more nodes than are drafted.

        Examples
        --------
        >>> TreeShape.dynamic(depth=5, top_k=8, nodes=32).candidates
        264
        """
        if depth < 1 or not 1 <= top_k <= MOST_NODES:
            raise ValueError(
                f"TreeShape.dynamic: depth and top_k must be >= 1, top_k at most {MOST_NODES}, "
                f"got {depth}, {top_k}"
            )
        candidates = top_k + (depth - 1) * top_k * top_k
        if not 1 <= nodes <= min(candidates, MOST_NODES):
            raise ValueError(
                f"TreeShape.dynamic: nodes must be in [1, {min(candidates, MOST_NODES)}], "
                f"got {nodes}"
            )
        levels, begin = [TreeLevel(1, (0, top_k), top_k, (-1,))], top_k
        for _ in range(depth - 1):
            start = tuple(begin + w * top_k for w in range(top_k + 1))
            levels.append(TreeLevel(top_k, start, top_k, None))
            begin = start[-1]
        return cls(tuple(levels), candidates, nodes, None)


def tree_template(choices: Sequence[Sequence[int]]) -> list[int]:
    """Parents of a tree given as Medusa's lists of choices (2401.10774).

    Parameters
    ----------
    choices : sequence of sequence of int
        A path for each node: which child to take at the root (0: the most probable), then at that
        node, and so on. In any order.

    Returns
    -------
    list of int
        Of each node, -1 for the root's, level by level, for :meth:`TreeShape.static`.

    Raises
    ------
    ValueError
        For a path that is empty or there twice, or whose parent or earlier sibling is missing.

    Examples
    --------
    >>> tree_template([(0,), (0, 0), (1,), (0, 1), (1, 0)])
    [-1, -1, 0, 0, 1]
    """
    paths = sorted((tuple(int(x) for x in path) for path in choices), key=lambda x: (len(x), x))
    index = {path: node for node, path in enumerate(paths)}
    if len(index) < len(paths):
        raise ValueError("tree_template: choices must name every path once")
    for path in paths:
        above, rank = path[:-1], path[-1] if path else -1
        fine = rank >= 0 and (not above or above in index)
        if not fine or (rank > 0 and (*above, rank - 1) not in index):
            raise ValueError(
                "tree_template: choices must have the parent and the earlier siblings of every "
                f"path, got {list(path)} without"
            )
    return [index.get(path[:-1], -1) for path in paths]


def sequoia_tree(acceptance: Sequence[float], nodes: int, depth: int | None = None) -> list[int]:
    """Parents of the tree that accepts most tokens in expectation (Sequoia, 2402.12374).

    With a_k the probability that the k-th child of a row is the one accepted, wherever the row is,
    a tree accepts the sum over its nodes of the product of a_k on the way to them. With F(n, d)
    that of the best tree of n rows and depth d, its root counted as 1, and G(m, k, d) what m nodes
    give under a row from its k-th child on: F(n, d) = 1 + G(n - 1, 0, d) and G(m, k, d) =
    max over s in 1..m of a_k F(s, d - 1) + G(m - s, k + 1, d), or 0.

    Parameters
    ----------
    acceptance : sequence of float
        a_k in [0, 1], as measured. No row gets more children than there are entries.
    nodes : int
        At most 1024.
    depth : int, optional
        The largest depth. None: ``nodes``.

    Returns
    -------
    list of int
        Of each node, -1 for the root's, level by level, for :meth:`TreeShape.static`. Fewer than
        ``nodes`` where that many have no place, or no chance.

    Raises
    ------
    ValueError
        For sizes that are not positive, or an acceptance outside [0, 1].

    Examples
    --------
    >>> sequoia_tree([0.6, 0.3, 0.05], nodes=5)
    [-1, -1, 0, 1, 2]
    """
    rates = np.asarray(acceptance, dtype=np.float64)
    if rates.ndim != 1 or not len(rates) or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(
            f"sequoia_tree: acceptance must hold numbers in [0, 1], got {list(acceptance)}"
        )
    depth = nodes if depth is None else depth
    if not 1 <= nodes <= MOST_NODES or depth < 1:
        raise ValueError(
            f"sequoia_tree: nodes must be in [1, {MOST_NODES}] and depth >= 1, got {nodes}, {depth}"
        )
    return tree_template(_grown(_best_splits(rates, nodes, min(depth, nodes)), nodes))


def _best_splits(rates: np.ndarray, nodes: int, depth: int) -> list[np.ndarray]:
    """For each depth that is left, [nodes + 1, ranks] how many nodes child k takes, itself
    included, of m that are left for it and its later siblings; 0: there is no such child."""
    value, found = np.ones(nodes + 1), []  # F(n, 0): the root of a tree alone
    value[0] = -np.inf
    for _ in range(depth):
        rest = np.zeros(nodes + 1)  # G(m, k + 1)
        splits = np.zeros((nodes + 1, len(rates)), dtype=np.int64)
        for k in range(len(rates) - 1, -1, -1):
            here = np.zeros(nodes + 1)
            for m in range(1, nodes + 1):
                total = rates[k] * value[1 : m + 1] + rest[m - 1 :: -1][:m]
                best = int(total.argmax())
                if total[best] > 0:
                    here[m], splits[m, k] = total[best], best + 1
            rest = here
        grown = np.concatenate([[-np.inf], 1 + rest[:-1]])
        found.append(splits)
        if np.array_equal(grown, value):
            break  # deeper trees are no better
        value = grown
    return found


def _grown(splits: list[np.ndarray], nodes: int) -> list[tuple[int, ...]]:
    """The path of ranks to every node."""
    found, waiting = [], [((), nodes, len(splits) - 1)]
    while waiting:
        path, left, level = waiting.pop()
        for k in range(splits[0].shape[1]):
            taken = int(splits[level][left, k]) if level >= 0 else 0
            if taken == 0:
                break
            found.append((*path, k))
            waiting.append(((*path, k), taken - 1, level - 1))
            left -= taken
    return found
