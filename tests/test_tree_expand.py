"""``tree_expand`` and ``tree_rerank``: EAGLE-2 by brute force, chains to the bit, the stop rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import raw
from helpers.device import few, interpreted_if
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import RngState, SamplingParams, TreeDraft, TreeShape
from tapout_kernels.testing import Case

OPS = ("tree_expand", "tree_layout", "tree_rerank")  # of the fixture `trees`


def table_of(vocab: int, seed: int = 0) -> Tensor:
    """[V, V] logits by the last token."""
    return 2 * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed))


def grown(
    draft: TreeDraft, table: Tensor, rng: RngState, backend: str, thresholds=None, **given
) -> TreeDraft:
    """All levels of a drafter that looks at the last token alone; token 0 is every tree's root."""
    draft.reset(rng)
    token = torch.zeros(draft.batch, 1, dtype=torch.int64)
    sampling = None
    if draft.logits is not None:
        sampling = given.pop("sampling", SamplingParams())
    for level in range(draft.shape.depth):
        threshold = None if thresholds is None else thresholds.get(level)
        token = tk.tree_expand(table[token], draft, level, sampling, rng, backend=backend,
                               threshold=threshold, **given)  # fmt: skip
    return draft


# ---- dynamic shapes ------------------------------------------------------------------------------


def eagle2(table: np.ndarray, depth: int, top_k: int, nodes: int) -> tuple[list[int], list[int]]:
    """Tokens and parents of the tree, by sorting lists."""
    logp = table - np.log(np.exp(table).sum(-1, keepdims=True))
    found, beam = [], [(-1, 0, 0.0)]  # (parent, token, score); (node, token, score)
    for _ in range(depth):
        level = []
        for node, last, score in beam:
            for token in np.argsort(-logp[last], kind="stable")[:top_k]:
                level.append((node, int(token), score + logp[last, token]))
        begin = len(found)
        found += level
        best = sorted(range(len(level)), key=lambda i: -level[i][2])[:top_k]
        beam = [(begin + i, *level[i][1:]) for i in sorted(best)]
    kept = sorted(sorted(range(len(found)), key=lambda i: -found[i][2])[:nodes])
    return (
        [found[i][1] for i in kept],
        [kept.index(found[i][0]) if found[i][0] >= 0 else -1 for i in kept],
    )


@pytest.mark.parametrize(
    ("depth", "top_k", "nodes"),
    [
        (1, 3, 2),
        (3, 3, 8),
        *(interpreted_if(False, *x) for x in ((4, 4, 52), (5, 2, 11), (6, 8, 60))),
    ],
)
def test_trees_are_eagle2s(trees, depth, top_k, nodes):
    """Four drafters, each alone in its batch row's table."""
    shape, vocab = TreeShape.dynamic(depth, top_k, nodes), 40
    for seed in range(4):
        table = table_of(vocab, seed)
        draft = grown(TreeDraft.empty(2, shape), table, RngState.of([1, 2]), trees)
        tree = tk.tree_rerank(draft, position=torch.tensor([7, 9]), backend=trees)
        tokens, parents = eagle2(table.double().numpy(), depth, top_k, nodes)
        assert tree.tokens.tolist() == [tokens] * 2
        expected = tk.tree_layout(torch.tensor([parents] * 2).int(), position=torch.tensor([7, 9]))
        raw.same(vars(tree.layout), vars(expected))
        assert tree.layout.valid.all()
        assert draft.depth.tolist() == [depth] * 2


def test_a_tree_by_hand(trees):
    """p(1) = .6, p(2) = .3; below 1: .5, .5; below 2: .9 (token 0), .1 (token 1)."""
    first, ones, twos = (torch.tensor(x).log() for x in ((0.1, 0.6, 0.3), (0.5, 0.5, 0.0),
                                                          (0.9, 0.1, 0.0)))  # fmt: skip
    draft = TreeDraft.empty(1, TreeShape.dynamic(depth=2, top_k=2, nodes=4))
    rng = RngState.of(3)
    draft.reset(rng)
    token = tk.tree_expand(first[None, None], draft, 0, None, rng, backend=trees)
    assert token.tolist() == [[1, 2]]
    assert draft.beam[1].tolist() == [[0, 1]]
    assert (
        tk.tree_expand(torch.stack([ones, twos])[None], draft, 1, None, rng, backend=trees) is None
    )
    assert draft.tokens.tolist() == [[1, 2, 0, 1, 0, 1]]
    assert draft.parents.tolist() == [[-1, -1, 0, 0, 1, 1]]
    expected = torch.tensor([[0.6, 0.3, 0.3, 0.3, 0.27, 0.03]]).log()
    torch.testing.assert_close(draft.score, expected, atol=1e-5, rtol=0)
    tree = tk.tree_rerank(draft, backend=trees)
    assert tree.tokens.tolist() == [[1, 2, 0, 1]]
    assert tree.layout.depth.tolist() == [[1, 1, 2, 2]]


@pytest.mark.parametrize(
    "shape", [TreeShape.dynamic(2, 3, 7), TreeShape.static([-1, -1, 0, 1, 1])], ids=["best", "all"]
)
def test_a_tree_is_written_where_the_one_before_was(trees, shape):
    draft, rng = TreeDraft.empty(2, shape), RngState.of([1, 2])
    root = torch.tensor([7, 9])
    first = tk.tree_rerank(grown(draft, table_of(40), rng, trees), position=root, backend=trees)
    tokens = first.tokens.clone()
    grown(draft, table_of(40, seed=1), rng, trees)
    again = tk.tree_rerank(draft, position=root + 1, out=first, backend=trees)
    anew = tk.tree_rerank(draft, position=root + 1, backend=trees)
    assert again is first
    raw.same(vars(again.layout), vars(anew.layout))
    assert torch.equal(again.tokens, anew.tokens)
    assert not torch.equal(again.tokens, tokens)
    assert (again.live, again.round, again.logits) == (anew.live, anew.round, None)
    with pytest.raises(ValueError, match="out must come from an earlier call for the same draft"):
        tk.tree_rerank(TreeDraft.empty(2, shape), out=first, backend=trees)


def test_fewer_ids_than_children(trees):
    """Two ids in all: a row has two children, and the tree is as large as it can be."""
    table = torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    draft = grown(TreeDraft.empty(1, TreeShape.dynamic(3, 4, 30)), table, RngState.of(0), trees)
    tree = tk.tree_rerank(draft, backend=trees)
    assert tree.layout.size.tolist() == [2 + 4 + 8]
    assert tree.layout.valid.tolist() == [True]
    assert draft.beam[1].tolist() == [[0, 1, -2, -2]]
    assert draft.parent_row[2].tolist() == [[0, 0, 1, 1]]


def test_rerank_keeps_what_is_connected(trees):
    """Scores that rise: a candidate whose parent is not among the best is left out."""
    args = {
        "tokens": torch.arange(6)[None], "parents": torch.tensor([[-1, -1, 0, 1, 2, 4]]).int(),
        "score": torch.tensor([[-5.0, -1.0, -2.0, -0.5, -0.1, -9.0]]),
    }  # fmt: skip
    out = {"out_tokens": torch.zeros(1, 4).long(), "out_parents": torch.zeros(1, 4).int(),
           "node": torch.zeros(1, 4).int()}  # fmt: skip
    raw.caller(trees)("tree_rerank", **args, **out)
    assert out["node"].tolist() == [[1, 3, -1, -1]]
    assert out["out_parents"].tolist() == [[-1, 0, -2, -2]]
    assert out["out_tokens"].tolist() == [[1, 3, -1, -1]]


# ---- drawn children ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filters", [{}, interpreted_if(False, {"temperature": 0.8, "top_k": 9, "top_p": 0.9})]
)
def test_a_chain_is_draft_steps_bit_for_bit(trees, filters):
    batch, slots, vocab = few(trees, 30, 6), 4, 1500
    table, sampling = table_of(vocab), SamplingParams.of(batch, **filters)
    left, right = (RngState.of(range(batch)) for _ in range(2))
    draft = TreeDraft.empty(batch, TreeShape.static(range(-1, slots - 1)), vocab=vocab)
    grown(draft, table, left, trees, sampling=sampling)
    chain = tk.Proposal.empty(batch, slots, vocab)
    chain.reset(right, backend=trees)
    token = torch.zeros(batch, dtype=torch.int64)
    for _ in range(slots):
        token = tk.draft_step(table[token], chain, sampling, right, backend=trees)
    assert draft.tokens.equal(chain.tokens)
    assert draft.logits[:, :slots].equal(chain.logits)
    assert raw.equal_bits(draft.stats[:, :slots], chain.stats)
    assert left.round.equal(right.round)
    assert draft.round.equal(chain.round)


@pytest.mark.interpreted_slow
def test_what_is_kept_is_what_from_tokens_computes(trees):
    """Statistics of a drawn tree, without another pass."""
    batch, vocab, parents = 5, 40, (-1, -1, 0, 0, 1, 2)
    table, rng = table_of(vocab), RngState.of(range(batch))
    sampling = SamplingParams.of(batch, temperature=1.3, top_k=7)
    draft = TreeDraft.empty(batch, TreeShape.static(parents), vocab=vocab)
    tree = tk.tree_rerank(grown(draft, table, rng, trees, sampling=sampling), backend=trees)
    rows = torch.cat([torch.zeros(batch, 1).long(), tree.tokens], 1)
    other = tk.TreeProposal.from_tokens(
        tree.tokens, tree.layout, RngState.of(range(batch)), table[rows], sampling, backend=trees
    )
    assert raw.equal_bits(tree.stats, other.stats)
    used = other.stats[..., 0].isfinite()
    assert torch.equal(tree.logits[used], other.logits[used])
    assert tree.layout.size.tolist() == [6] * batch


def test_at_temperature_zero_a_row_has_one_child(trees):
    draft = TreeDraft.empty(1, TreeShape.static((-1, -1, 0)), vocab=6)
    table = table_of(6)
    grown(draft, table, RngState.of(4), trees, sampling=SamplingParams.of(1, temperature=0.0))
    best = table.argmax(-1)
    assert draft.tokens.tolist() == [[int(best[0]), -1, int(best[best[0]])]]
    assert draft.score.tolist() == [[0.0, -math.inf, 0.0]]


def test_rows_of_nan_have_no_children(trees):
    """One row of two: the tree goes on with the other."""
    draft, rng = TreeDraft.empty(1, TreeShape.static((-1, -1, 0, 1)), vocab=5), RngState.of(2)
    draft.reset(rng)
    tk.tree_expand(torch.zeros(1, 1, 5), draft, 0, SamplingParams(), rng, backend=trees)
    logits = torch.zeros(1, 2, 5)
    logits[0, 0, 3] = torch.nan
    tk.tree_expand(logits, draft, 1, SamplingParams(), rng, backend=trees)
    assert draft.tokens[0, 2] == -1
    assert draft.tokens[0, 3] >= 0
    assert draft.active.item()
    assert draft.stats[0, 1, :6].isnan().all()


# ---- the stop rule, rows -------------------------------------------------------------------------


def test_depth_logsumexp_by_hand(trees):
    """Beam probabilities .6 + .3 = .9 at depth 1; thresholds on both sides of ln .9."""
    draft = TreeDraft.empty(3, TreeShape.dynamic(depth=3, top_k=2, nodes=6))
    row = torch.tensor([0.1, 0.6, 0.3]).log()
    rng = RngState.of(range(3))
    draft.reset(rng)
    limit = torch.tensor([math.log(0.89), math.log(0.91), math.nan])
    tk.tree_expand(row.expand(3, 1, 3), draft, 0, None, rng, threshold=limit, backend=trees)
    assert draft.active.tolist() == [True, False, True]
    for level in (1, 2):
        token = tk.tree_expand(row.expand(3, 2, 3), draft, level, None, rng, backend=trees)
    assert token is None
    assert draft.depth.tolist() == [3, 1, 3]
    assert draft.beam[2][1].tolist() == [-2, -2]
    tree = tk.tree_rerank(draft, backend=trees)
    assert tree.layout.size.tolist() == [6, 2, 6]
    assert tree.layout.valid.all()


def test_a_static_tree_that_stops_is_a_smaller_tree(trees):
    draft = TreeDraft.empty(2, TreeShape.static((-1, -1, 0, 1, 2)), vocab=7)
    limit = {0: torch.tensor([0.5, -50.0])}  # no logsumexp of two children is above 0
    tree = tk.tree_rerank(
        grown(draft, table_of(7), RngState.of([1, 2]), trees, limit), backend=trees
    )
    assert tree.layout.size.tolist() == [2, 5]
    assert tree.layout.valid.all()


def test_rows_that_are_not_live_draft_nothing(trees):
    draft = TreeDraft.empty(3, TreeShape.dynamic(2, 2, 5))
    rng = RngState.of(range(4))
    draft.reset(rng, live=torch.tensor([True, False, True]), rows=torch.tensor([3, 0, 9]).int())
    assert rng.round.tolist() == [0, 0, 0, 1]
    assert draft.active.tolist() == [True, False, False]
    row = torch.arange(5.0).expand(3, 1, 5)
    token = tk.tree_expand(row, draft, 0, None, rng, rows=torch.tensor([3, 0, 9]).int(),
                           backend=trees)  # fmt: skip
    assert token.tolist() == [[4, 3], [0, 0], [0, 0]]
    assert draft.tokens[1:].eq(-1).all()
    assert draft.depth.tolist() == [1, 0, 0]


def hostile_tables(args: dict) -> list[dict]:
    nodes, big, beam = args["tokens"].shape[1], 1 << 30, args["beam"]
    places = (-(1 << 31), (1 << 31) - 1, nodes, nodes - 1, -3)
    return [
        {"child_start": torch.tensor(x).int()}
        for x in ((-big, 4, 6, big), (6, 4, 2, 0), (big, -big, big, -big), (nodes, nodes, 99, 100),
                  (0, 2, 2, nodes), (5, 5, 5, 5))
    ] + [
        *({"beam": torch.full_like(beam, x)} for x in places),
        {"children": 40},
        {"children": 1},
        {"next_node": torch.tensor([-9, nodes, big, 0]).int()},
    ]  # fmt: skip


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("drafts", ["full", "one_hot"])
def test_tables_that_lead_anywhere_lead_nowhere_beside(trees, drafts):
    """Rows side by side may write one place in any order, but no other."""
    case = Case("tree_expand", 3, 3, 40, drafts=drafts, seed=1)
    for wrong in hostile_tables(case.inputs()):
        raw.check_nothing_beside(raw.caller(trees), case.op, {**case.inputs(), **wrong})


@pytest.mark.parametrize("drafts", ["full", "one_hot"])
def test_tables_that_lead_anywhere_are_read_alike(drafts):
    """Raw operators take any numbers; nothing is written beside."""
    case = Case("tree_expand", 6, 3, 40, drafts=drafts, seed=1)
    torch.set_num_threads(1)  # children of two rows in one place: the later row's
    for wrong in hostile_tables(case.inputs()):
        if drafts == "one_hot" and "next_node" in wrong:
            continue
        args = {**case.inputs(), **wrong}
        found, expected = (raw.run(raw.caller(x), case.op, args) for x in ("cpu", "reference"))
        for name in ("tokens", "parents", "next_beam", "next_row", "next_token", "depth", "active"):
            assert torch.equal(found[name], expected[name]), f"{wrong} {name}"
        raw.check_nothing_beside(raw.caller("cpu"), case.op, args)


# ---- arguments -----------------------------------------------------------------------------------


def test_what_is_refused_is_said():
    dynamic, static = TreeShape.dynamic(2, 2, 4), TreeShape.static((-1, 0))
    rng, logits = RngState.of(0), torch.zeros(1, 1, 5)
    best, drawn = TreeDraft.empty(1, dynamic), TreeDraft.empty(1, static, vocab=5)
    wrong = {
        "TreeDraft.empty: vocab must be None with a dynamic shape, got 5: which children stay": (
            lambda: TreeDraft.empty(1, dynamic, vocab=5)
        ),
        "tree_expand: sampling must be None for deterministic children, got a SamplingParams": (
            lambda: tk.tree_expand(logits, best, 0, SamplingParams(), rng)
        ),
        "tree_expand: sampling must be given for drawn children, got None": (
            lambda: tk.tree_expand(logits, drawn, 0, None, rng)
        ),
        r"tree_expand: level must be in \[0, 2\), got 2": (
            lambda: tk.tree_expand(logits, best, 2, None, rng)
        ),
        r"tree_expand: logits must be \[1, 1, 5\], got \[1, 2, 5\]": (
            lambda: tk.tree_expand(torch.zeros(1, 2, 5), drawn, 0, SamplingParams(), rng)
        ),
        "TreeDraft.reset: live must be bool, got int64": (
            lambda: best.reset(rng, live=torch.zeros(1).long())
        ),
        "TreeDraft.reset: rng must have 1 rows, got 2": lambda: best.reset(RngState.of([1, 2])),
        "TreeDraft.empty: sizes must be >= 1, got 0, None": lambda: TreeDraft.empty(0, dynamic),
    }
    for message, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    assert rng.round.tolist() == [0]
    with pytest.raises(RuntimeError, match="tree_expand: next_row must be given with next_beam"):
        raw.caller("cpu")("tree_expand", **{**Case("tree_expand").inputs(), "next_row": None})
    with pytest.raises(RuntimeError, match="tree_expand: children must be of 1 to 1024 nodes"):
        raw.caller("cpu")("tree_expand", **{**Case("tree_expand").inputs(), "children": 0})
