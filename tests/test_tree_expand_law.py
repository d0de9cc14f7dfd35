"""Trees that ``tree_expand`` draws have the law they should, and verified the target's.

The draft's probabilities are fractions: a grid of uniforms whose cells divide them evenly counts
every tree exactly, so nothing is sampled.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.chi2 import p_value
from helpers.device import few
from helpers.integrate import DRAFT, Noise
from helpers.mutants import Edit, Reference
from helpers.oracle import markov, processed
from helpers.tree_law import TreeSetup, tree_error
from test_law_exact import FLOAT64_STATS
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import RngState, SamplingParams, TreeDraft, TreeShape
from tapout_kernels.reference.rng import mix64

OPS = ("tree_expand", "tree_rerank", "tree_verify")  # of the fixture `trees`


# The draft's rows are float32 logarithms: each is off by 2**-24 of |ln q| < 2, and a law of five
# nodes is a sum of products of them.
BOUND = 5 * 2.0**-22


def fractions(*rows: tuple[int, ...]) -> np.ndarray:
    return np.log(np.array(rows, dtype=np.float64) / np.sum(rows, axis=1, keepdims=True)).astype(
        np.float32
    )


class Drawn:
    """Every tree of a static shape, from a grid of one uniform a node."""

    def __init__(self, reference: Reference, parents, logits: np.ndarray, cells: tuple[int, ...]):
        reference.set_chunk(2)
        grid = itertools.product(*((np.arange(n) + 0.5) / n for n in cells))
        self.uniforms = torch.tensor(list(grid), dtype=torch.float64)
        self.batch, self.logits = len(self.uniforms), torch.tensor(logits)
        self.shape, self.call = TreeShape.static(parents), reference.ops["tree_expand"]
        noise = Noise(torch.arange(self.batch), len(parents))
        noise.values[DRAFT] = self.uniforms
        reference.set_uniform(noise)

    def __call__(self, thresholds: dict[int, float] | None = None) -> TreeDraft:
        draft = TreeDraft.empty(self.batch, self.shape, vocab=self.logits.shape[1])
        draft.active.fill_(True)
        draft.round.copy_(torch.arange(self.batch) + 1)
        token = torch.zeros(self.batch, 1, dtype=torch.int64)
        for level in range(self.shape.depth):
            last = level + 1 == self.shape.depth
            limit = (thresholds or {}).get(level)
            following = None if last else draft.beam[level + 1]
            after = None if last else torch.zeros_like(following, dtype=torch.int64)
            self.call(
                logits=self.logits[token], **SamplingParams().arguments(), token_mask=None,
                d2t=None, seed=torch.arange(self.batch), rows=None, round=draft.round,
                beam=draft.beam[level], child_start=draft.child_start[level],
                next_node=draft.next_node[level],
                threshold=None if limit is None else torch.full((self.batch,), limit),
                children=self.shape.levels[level].children, drawn=True, active=draft.active,
                depth=draft.depth, tokens=draft.tokens, parents=draft.parents, score=draft.score,
                kept_logits=draft.logits, stats=draft.stats, next_beam=following,
                next_row=None if last else draft.parent_row[level + 1], next_token=after,
            )  # fmt: skip
            token = after
        return draft


def counted(tokens: Tensor) -> dict[tuple[int, ...], Fraction]:
    """The share of every tree."""
    trees, count = tokens.unique(dim=0, return_counts=True)
    return {
        tuple(tree): Fraction(n, len(tokens))
        for tree, n in zip(trees.tolist(), count.tolist(), strict=True)
    }


def law_of_draws(row: tuple[int, ...], children: int) -> dict[tuple[int, ...], Fraction]:
    """Ordered draws without replacement."""
    law = {}
    for ids in itertools.permutations(range(len(row)), children):
        chance, left = Fraction(1), Fraction(sum(row))
        for i in ids:
            chance *= row[i] / left
            left -= row[i]
        law[ids] = chance
    return law


def draws_are_without_replacement(reference: Reference) -> bool:
    """Three of four ids: conditional probabilities are multiples of 1/8, 1/84 and 1/30."""
    row = (4, 2, 1, 1)
    drawn = Drawn(reference, (-1, -1, -1), fractions(row), (8, 84, 30))
    return counted(drawn().tokens) == law_of_draws(row, 3)


def test_draws_are_without_replacement():
    assert draws_are_without_replacement(Reference())


@pytest.mark.parametrize(
    "edits",
    [
        (Edit("tree_expand.py", "0.0 if drawn else", "0.01 if drawn else"),),
        (Edit("tree_expand.py", "child.expand_as(level.seed)", "level.begin + 0 * child"),),
        (Edit("tree_expand.py", "rows.weights if drawn", "rows.weights.sqrt() if drawn"),),
    ],
    ids=["taken ids stay a little", "siblings share their noise", "another temperature"],
)  # fmt: skip
def test_wrong_draws_are_seen(edits):
    assert not draws_are_without_replacement(Reference(*edits))


# ---- the law of what is emitted, exactly ---------------------------------------------------------

ROWS = ((2, 1, 1), (1, 2, 1), (1, 1, 2))  # of three ids: multiples of 1/4, then of 1/6
PARENTS = (-1, -1, 0, 0)
CELLS = (4, 6, 4, 6)


def setup_of(parents=PARENTS) -> TreeSetup:
    target = np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32) * 1.5
    return TreeSetup(parents, target, fractions(*ROWS))


def shares(tokens: Tensor) -> tuple[np.ndarray, np.ndarray]:
    found = counted(tokens)
    return np.array(list(found)), np.array([float(x) for x in found.values()])


@pytest.mark.parametrize(
    "thresholds", [None, {0: float(np.log(0.4))}, {0: 0.0}], ids=["whole", "stopped", "one level"]
)
def test_drawn_trees_keep_the_law(thresholds):
    """The second: the first child decides whether it gets children, 1/2 yes and 1/4 no."""
    drawn = Drawn(Reference(), PARENTS, fractions(*ROWS), CELLS)
    tokens = drawn(thresholds).tokens
    stopped = (tokens[:, 2] < 0).double().mean().item()
    assert stopped == (0 if thresholds is None else 1 if thresholds[0] == 0 else 0.5)
    law = shares(tokens)
    assert tree_error(Reference(FLOAT64_STATS), setup_of(), lambda _: law) <= BOUND


def test_reranked_draws_do_not_keep_the_law():
    """What the public functions refuse: the better two of three drawn children."""
    rows = fractions(*[(4, 2, 1, 1)] * 4)
    draft = Drawn(Reference(), (-1, -1, -1), rows, (8, 84, 30))()
    setup = TreeSetup((-1, -1), fractions(*[(1, 3, 3, 9)] * 4), rows)
    as_drawn = shares(draft.tokens[:, :2])
    assert tree_error(Reference(FLOAT64_STATS), setup, lambda _: as_drawn) <= BOUND
    likely = draft.score.sort(dim=1, descending=True, stable=True).indices[:, :2]
    for order in (likely, likely.sort(1).values):  # the rank, or the order they were drawn in
        law = shares(draft.tokens.gather(1, order))
        assert tree_error(Reference(FLOAT64_STATS), setup, lambda _, law=law: law) > 1e-2


# ---- with the real streams -----------------------------------------------------------------------

SMALL, TOKENS = 6, 3
TABLES = np.random.default_rng(11).normal(size=(2, SMALL, SMALL)).astype(np.float32) * 1.5
SHAPES = {
    "drawn": TreeShape.static((-1, -1, -1, 0, 0, 1)),
    "drawn, stopped": TreeShape.static((-1, -1, -1, 0, 0, 1)),
    "eagle2": TreeShape.dynamic(2, 3, 6),
    "eagle2, stopped": TreeShape.dynamic(2, 3, 6),
}
THRESHOLD = 1e-6


def replicas(backend: str) -> int:
    return few(backend, 12000 if backend == "cpu" else 1000, 400, emulated=300)


def rounds(shape: TreeShape, drawn: bool, stopped: bool, batch: int, backend: str) -> Tensor:
    """[B, 3] tokens of as many rounds as it takes."""
    rng = RngState.of([mix64(b, 5) for b in range(batch)])
    target, table = (torch.tensor(x) for x in TABLES)
    draft = TreeDraft.empty(batch, shape, vocab=SMALL if drawn else None)
    last, count = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)
    out, row = torch.full((batch, TOKENS + 8), -1), torch.arange(batch)
    limit = torch.full((batch,), -0.9 if drawn else -0.2) if stopped else None
    sampling = SamplingParams.of(batch, temperature=1.5) if drawn else None
    depths = set()
    while (count < TOKENS).any():
        draft.reset(rng)
        token = last[:, None]
        for level in range(shape.depth):
            token = tk.tree_expand(table[token], draft, level, sampling, rng, threshold=limit,
                                   backend=backend)  # fmt: skip
        depths |= set(draft.depth.tolist())
        tree = tk.tree_rerank(draft, backend=backend)
        found = tk.tree_verify(target[tree.input_ids(last)], tree, None, rng, backend=backend)
        for j in range(shape.nodes + 1):
            more = (found.tokens[:, j] >= 0) & (count < TOKENS)
            out[row[more], count[more]] = found.tokens[more, j]
            count += more
        last = found.last_token
    assert depths == ({1, 2} if stopped else {2})
    return out[:, :TOKENS]


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.sliced(4)
def test_consecutive_rounds_have_the_target_law(trees, name):
    tokens = rounds(SHAPES[name], "drawn" in name, "stopped" in name, replicas(trees), trees)
    law = markov(np.stack([processed(z) for z in TABLES[0]]), 0, TOKENS)
    assert p_value(tokens, law) > THRESHOLD
