"""``tree_verify``: answers by hand, chains, the joint law with real streams, hostile trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.chi2 import p_value
from helpers.law import Filter, columns
from helpers.oracle import markov, processed
from helpers.raw import caller
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import RngState, SamplingParams
from tapout_kernels.reference.rng import DRAFT, mix64, uniform
from tapout_kernels.reference.sampling import sample_index
from tapout_kernels.reference.tree import TREE_RULES
from tapout_kernels.testing import Case

THRESHOLD = 1e-6
OK, NAN, EMPTY, BAD_DRAFT = range(4)


@pytest.fixture(params=["reference", "cpu"])
def trees(request) -> str:
    return request.param


def layout_of(parents, backend: str) -> tk.TreeLayout:
    return tk.tree_layout(torch.tensor(parents, dtype=torch.int32), backend=backend)


def certain(*rows: int, vocab: int = 8) -> Tensor:
    """[1, N+1, V] logits that leave one id of each row."""
    return torch.nn.functional.one_hot(torch.tensor([rows]), vocab).float().log()


def greedy_tree(backend: str, tokens=(2, 3, 4, 5, 6)) -> tk.TreeProposal:
    """Children of the root: nodes 0, 1; of node 0: 2, 3; of node 3: 4."""
    layout = layout_of([(-1, -1, 0, 0, 3)], backend)
    return tk.TreeProposal.from_tokens(torch.tensor([tokens]), layout, RngState.of(7))


# ---- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", TREE_RULES)
@pytest.mark.parametrize(
    ("rows", "path", "tokens"),
    [
        ((7, 0, 0, 0, 0, 0), [], [7]),
        ((3, 0, 7, 0, 0, 0), [1], [3, 7]),
        ((2, 7, 0, 0, 0, 0), [0], [2, 7]),
        ((2, 5, 0, 0, 6, 1), [0, 3, 4], [2, 5, 6, 1]),
        ((2, 4, 0, 7, 6, 1), [0, 2], [2, 4, 7]),
    ],
)
def test_paths_of_a_certain_target(trees, rule, rows, path, tokens):
    """A target of one id a row: every rule goes where it points, and emits it where no child is."""
    proposal, rng = greedy_tree(trees), RngState.of(7, position=20)
    found = tk.tree_verify(certain(*rows), proposal, None, rng, rule=rule, backend=trees)
    assert found.path.tolist() == [path + [-1] * (5 - len(path))]
    assert found.tokens.tolist() == [tokens + [-1] * (6 - len(tokens))]
    assert found.num_accepted.tolist() == [len(path)]
    assert found.num_emitted.tolist() == [len(tokens)]
    assert found.last_token.tolist() == [tokens[-1]]
    assert found.status.tolist() == [OK]
    assert rng.position.tolist() == [20 + len(tokens)]


def test_rejected_branches_are_not_read(trees):
    """The path goes root, node 0, node 3, node 4: all other rows are NaN."""
    logits = certain(2, 5, 0, 0, 6, 1)
    logits[0, [2, 3]] = torch.nan
    found = tk.tree_verify(logits, greedy_tree(trees), None, RngState.of(7), backend=trees)
    assert found.tokens.tolist() == [[2, 5, 6, 1, -1, -1]]
    assert found.status.tolist() == [OK]


@pytest.mark.parametrize(("value", "status"), [(torch.nan, NAN), (torch.inf, NAN),
                                               (-torch.inf, EMPTY)])  # fmt: skip
@pytest.mark.parametrize("rule", TREE_RULES)
def test_an_invalid_row_ends_the_path(trees, rule, value, status):
    logits = certain(2, 5, 0, 0, 6, 1)
    logits[0, 4] = value  # of node 3, which is accepted
    rng = RngState.of(7)
    found = tk.tree_verify(logits, greedy_tree(trees), None, rng, rule=rule, backend=trees)
    assert found.tokens.tolist() == [[2, 5, -1, -1, -1, -1]]
    assert found.path.tolist() == [[0, 3, -1, -1, -1]]
    assert (found.status.item(), found.num_emitted.item(), found.last_token.item()) == (
        status,
        2,
        5,
    )
    assert rng.position.tolist() == [2]


@pytest.mark.parametrize("bad", [-1, 8, 1 << 40, -(1 << 62)])
@pytest.mark.parametrize("rule", TREE_RULES)
def test_a_child_that_cannot_be_ends_its_row(trees, rule, bad):
    """Node 0 is nobody's id: node 1 after it is not looked at."""
    proposal = greedy_tree(trees, (bad, 3, 4, 5, 6))
    found = tk.tree_verify(certain(3, 5, 0, 0, 6, 1), proposal, None, RngState.of(7), rule=rule,
                           backend=trees)  # fmt: skip
    assert found.tokens.tolist() == [[3, -1, -1, -1, -1, -1]]
    assert found.status.tolist() == [BAD_DRAFT]


def test_a_tree_that_is_none_emits_one_token(trees):
    layout = layout_of([(-1, 1, 0), (-1, 0, 1)], trees)
    proposal = tk.TreeProposal.from_tokens(
        torch.tensor([[2, 3, 4]] * 2), layout, RngState.of([1, 2])
    )
    found = tk.tree_verify(certain(2, 3, 4, 5).repeat(2, 1, 1), proposal, None, RngState.of([1, 2]),
                           backend=trees)  # fmt: skip
    assert found.tokens.tolist() == [[2, -1, -1, -1], [2, 3, 4, 5]]
    assert found.status.tolist() == [BAD_DRAFT, OK]


def test_rows_that_are_not_live_do_nothing(trees):
    layout, rng = layout_of([(-1, 0)] * 2, trees), RngState.of([1, 2], position=5)
    live = torch.tensor([False, True])
    proposal = tk.TreeProposal.from_tokens(torch.tensor([[2, 3]] * 2), layout, rng, live=live)
    assert rng.round.tolist() == [0, 1]
    found = tk.tree_verify(certain(2, 3, 4).repeat(2, 1, 1), proposal, None, rng, backend=trees)
    assert found.tokens.tolist() == [[-1, -1, -1], [2, 3, 4]]
    assert found.num_emitted.tolist() == [0, 3]
    assert rng.position.tolist() == [5, 8]


def test_children_drawn_twice_are_bad(trees):
    """Without replacement the second cannot be what the first was."""
    layout = layout_of([(-1, -1)] * 64, trees)
    logits = torch.zeros(64, 3, 4)
    target = certain(3, 0, 0, vocab=4).repeat(64, 1, 1)
    for tokens, status in (((1, 1), BAD_DRAFT), ((1, 2), OK)):
        proposal = tk.TreeProposal.from_tokens(
            torch.tensor([tokens]).repeat(64, 1), layout, RngState.of(range(64)), logits.clone(),
            SamplingParams(), backend=trees,
        )  # fmt: skip
        found = tk.tree_verify(target, proposal, None, RngState.of(range(64)), backend=trees)
        assert found.status.tolist() == [status] * 64
        assert found.tokens[:, 0].tolist() == [3] * 64


def test_nothing_left_to_draw_ends_the_children(trees):
    """Top-k leaves the draft two ids; a third child, whatever it says, is not looked at."""
    layout = layout_of([(-1, -1, -1)] * 64, trees)
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0]).expand(64, 4, 4).contiguous()
    target = certain(2, 0, 0, 0, vocab=4).repeat(64, 1, 1)
    sampling = SamplingParams.of(64, top_k=2)
    for third in (2, -1):
        proposal = tk.TreeProposal.from_tokens(
            torch.tensor([(0, 1, third)]).repeat(64, 1), layout, RngState.of(range(64)), logits,
            sampling, backend=trees,
        )  # fmt: skip
        found = tk.tree_verify(target, proposal, None, RngState.of(range(64)), backend=trees)
        assert found.status.tolist() == [OK] * 64
        assert found.num_accepted.tolist() == [0] * 64
        assert found.tokens[:, 0].tolist() == [2] * 64


def hostile_links(args: dict) -> list[dict]:
    """Links that lead back, to themselves, or out of the tree."""
    batch, nodes = args["next_sibling"].shape
    back = torch.arange(nodes, dtype=torch.int32).flip(0).expand(batch, -1).contiguous()
    own = torch.arange(nodes, dtype=torch.int32).expand(batch, -1).contiguous()
    root = torch.zeros(batch, nodes + 1, dtype=torch.int32)
    far = torch.full((batch, nodes), 1 << 30, dtype=torch.int32)
    return [
        {"next_sibling": back, "first_child": root},
        {"next_sibling": own},
        {"next_sibling": far, "first_child": torch.full_like(root, -(1 << 31))},
        {"next_sibling": -far, "first_child": torch.full_like(root, 1 << 30)},
    ]


@pytest.mark.parametrize("rule", ["token", "gumbel", "greedy"])
@pytest.mark.parametrize("drafts", ["full", "one_hot"])
def test_links_that_lead_anywhere_end(rule, drafts):
    """Raw operators take any numbers: both read them alike, and come to an end."""
    case = Case("tree_verify", 8, 6, 40, rule=rule, drafts=drafts)
    for links in hostile_links(case.inputs()):
        found = []
        for backend in ("reference", "cpu"):
            args = {**case.inputs(), **links}
            caller(backend)("tree_verify", **args)
            found.append((args["tokens"].tolist(), args["path"].tolist(), args["status"].tolist()))
        assert found[0] == found[1]


# ---- chains --------------------------------------------------------------------------------------

BATCH, SLOTS, VOCAB = 300, 4, 1500


@pytest.mark.parametrize("one_hot", [False, True], ids=["drawn", "one_hot"])
@pytest.mark.parametrize("filters", [{}, {"temperature": 0.8, "top_k": 200, "top_p": 0.95}])
@pytest.mark.parametrize("rule", ["token", "gumbel", "greedy"])
def test_a_chain_emits_what_verify_emits(trees, rule, filters, one_hot):
    """Node i hangs on node i - 1: the coins of slot i and node i have one address, to the bit."""
    batch = BATCH if trees == "cpu" else 30
    generator = torch.Generator().manual_seed(1)
    draft = 4 * torch.randn(batch, SLOTS + 1, VOCAB, generator=generator)
    target = draft + 0.7 * torch.randn(batch, SLOTS + 1, VOCAB, generator=generator)
    sampling = SamplingParams.of(batch, **filters)
    drafting, left, right = (RngState.of(range(batch), position=9) for _ in range(3))
    chain = tk.Proposal.empty(batch, SLOTS, VOCAB)
    chain.reset(drafting, backend=trees)
    for slot in range(SLOTS):
        tk.draft_step(draft[:, slot], chain, sampling, drafting, rule=rule, backend=trees)
    kept = None if one_hot else chain.logits
    chain = tk.Proposal.from_tokens(
        chain.tokens, left, logits=kept, sampling=None if one_hot else sampling, backend=trees
    )
    layout = layout_of([range(-1, SLOTS - 1)] * batch, trees)
    tree = tk.TreeProposal.from_tokens(
        chain.tokens, layout, right, None if one_hot else draft, None if one_hot else sampling,
        backend=trees,
    )  # fmt: skip
    assert torch.equal(left.round, right.round)
    expected = tk.verify(target, chain, sampling, left, rule=rule, backend=trees)
    found = tk.tree_verify(target, tree, sampling, right, rule=f"tree_{rule}", backend=trees)
    for name in ("tokens", "num_accepted", "num_emitted", "last_token", "status"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(left.position, right.position)
    assert len(expected.num_accepted.unique()) > 2, "chains of several lengths"


# ---- the joint law -------------------------------------------------------------------------------

SMALL, START, TOKENS = 6, 0, 3
TABLES = np.random.default_rng(11).normal(size=(2, SMALL, SMALL)).astype(np.float32) * 1.5
TARGET_FILTER, DRAFT_FILTER = Filter(0.75, 5), Filter(1.5)
REPLICAS = {"reference": 3000, "cpu": 12000}
Order = Callable[[Tensor, Tensor], Tensor]


class Drafter:
    """Expands a fixed topology: every child from what its earlier siblings have left, or the most
    probable ids of each row as one-hot children."""

    def __init__(self, parents: tuple[int, ...], one_hot: bool, order: Order | None = None):
        self.parents, self.one_hot, self.order = parents, one_hot, order
        rows = [processed(z, *DRAFT_FILTER) for z in TABLES[1]]
        self.table = torch.tensor(np.stack(rows))

    def tokens(self, last: Tensor, rng: RngState) -> Tensor:
        """Noise: (0, node, round, DRAFT)."""
        drawn = []
        for node, parent in enumerate(self.parents):
            left = self.table[last if parent < 0 else drawn[parent]].clone()
            for other in range(node):
                if self.parents[other] == parent:
                    left.scatter_(1, drawn[other][:, None], 0.0)
            u = uniform(rng.seed, 0, torch.full_like(last, node), rng.round, DRAFT)
            drawn.append(left.argmax(-1) if self.one_hot else sample_index(left, u))
        tokens = torch.stack(drawn, 1)
        return tokens if self.order is None else self.order(tokens, self.table[last])


def generate(drafter: Drafter, batch: int, backend: str) -> Tensor:
    """[B, 3] tokens of as many rounds as it takes."""
    layout = layout_of([drafter.parents] * batch, backend)
    rng = RngState.of([mix64(b, 3) for b in range(batch)])
    last, count = torch.full((batch,), START), torch.zeros(batch, dtype=torch.int64)
    out, row = torch.full((batch, TOKENS + 8), -1), torch.arange(batch)
    target, draft = torch.tensor(TABLES[0]), torch.tensor(TABLES[1])
    sampling, drafting = (SamplingParams(**columns([x] * batch))
                          for x in (TARGET_FILTER, DRAFT_FILTER))  # fmt: skip
    while (count < TOKENS).any():
        tokens = drafter.tokens(last, rng)
        rows = torch.cat([last[:, None], tokens], 1)
        one_hot = drafter.one_hot
        tree = tk.TreeProposal.from_tokens(
            tokens, layout, rng, None if one_hot else draft[rows], None if one_hot else drafting,
            backend=backend,
        )  # fmt: skip
        found = tk.tree_verify(target[rows], tree, sampling, rng, backend=backend)
        for j in range(len(drafter.parents) + 1):
            more = (found.tokens[:, j] >= 0) & (count < TOKENS)
            out[row[more], count[more]] = found.tokens[more, j]
            count += more
        last = found.last_token
    return out[:, :TOKENS]


def law() -> np.ndarray:
    return markov(np.stack([processed(z, *TARGET_FILTER) for z in TABLES[0]]), START, TOKENS)


@pytest.mark.parametrize("one_hot", [False, True], ids=["drawn", "one_hot"])
@pytest.mark.parametrize("parents", [(-1, -1, -1), (-1, -1, 0, 0, 1), (-1, 0, -1, 1, 1, 2)])
def test_consecutive_rounds_have_the_target_law(trees, parents, one_hot):
    """216 cells of three tokens, over rounds whose trees depend on what was emitted."""
    tokens = generate(Drafter(parents, one_hot), REPLICAS[trees], trees)
    assert p_value(tokens, law()) > THRESHOLD


def likelier_first(tokens: Tensor, probs: Tensor) -> Tensor:
    return tokens.gather(1, probs.gather(1, tokens).argsort(1, descending=True))


def test_children_in_another_order_than_drawn_are_rejected(trees):
    """What a drafter must not do; the operator cannot know."""
    wrong = Drafter((-1, -1, -1), False, likelier_first)
    assert p_value(generate(wrong, REPLICAS[trees], trees), law()) < THRESHOLD


def test_the_drafts_own_noise_must_not_be_the_coins(monkeypatch):
    """One stream for both (vllm#54282): the test above sees it."""
    monkeypatch.setattr("test_tree_verify.DRAFT", 1)
    wrong = Drafter((-1, -1, -1), False)
    assert p_value(generate(wrong, REPLICAS["cpu"], "cpu"), law()) < THRESHOLD


# ---- gumbel --------------------------------------------------------------------------------------


def test_gumbel_output_is_the_targets_own(trees):
    """Whatever the tree: what is emitted is what sampling alone emits at those positions."""
    batch, vocab = 200, 50
    generator = torch.Generator().manual_seed(3)
    table = 2 * torch.randn(vocab, vocab, generator=generator)
    rng = RngState.of(range(batch), position=4)
    tokens = torch.randint(0, vocab, (batch, 6), generator=generator)
    own, last = [], torch.zeros(batch, dtype=torch.int64)
    alone = dataclasses.replace(rng, position=rng.position.clone(), round=rng.round.clone())
    for _ in range(3):
        last = tk.sample(table[last], None, alone, rule="gumbel", backend=trees)
        own.append(last)
    tokens[:, 1], tokens[:, 3] = own[0], own[1]  # node 1 of the root, node 3 of node 1
    tokens[:, 0] = (own[0] + 1) % vocab
    layout = layout_of([(-1, -1, 0, 1, 1, 0)] * batch, trees)
    tree = tk.TreeProposal.from_tokens(tokens, layout, rng)
    rows = torch.cat([torch.zeros(batch, 1, dtype=torch.int64), tokens], 1)
    found = tk.tree_verify(table[rows], tree, None, rng, rule="tree_gumbel", backend=trees)
    assert torch.equal(found.tokens[:, :3], torch.stack(own, 1))
    assert (found.num_accepted >= 2).all()


# ---- proposals -----------------------------------------------------------------------------------


def test_statistics_are_those_of_rows_with_children(trees):
    layout = layout_of([(-1, -1, 0)] * 2, trees)
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    tokens, rng = torch.tensor([[5, 2, 7], [1, 8, 3]]), RngState.of([1, 2])
    sampling = SamplingParams.of(2, temperature=[0.7, 1.5], top_k=4)
    tree = tk.TreeProposal.from_tokens(tokens, layout, rng, logits, sampling, backend=trees)
    assert tree.stats[:, 2:].isnan().all()
    for row, first in ((0, 0), (1, 2)):
        expected = tk.row_stats(
            logits[:, row], sampling, tokens=tokens[:, first].clone(), backend=trees
        )
        assert torch.equal(tree.stats[:, row], expected)
    assert rng.round.tolist() == [1, 1]


def test_masked_ids_of_drafted_rows_become_minus_infinity(trees):
    layout = layout_of([(-1, 0)], trees)
    logits, rng = torch.zeros(1, 3, 5), RngState.of(0)
    mask = torch.tensor([[[0b10110], [0b00111], [0b00001]]], dtype=torch.int32)
    tk.TreeProposal.from_tokens(torch.tensor([[1, 2]]), layout, rng, logits, SamplingParams(),
                                token_mask=mask, backend=trees)  # fmt: skip
    allowed = logits[0].isfinite().int().tolist()
    assert allowed == [[0, 1, 1, 0, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "node 1 has no children"


def test_what_is_wrong_with_a_tree_is_said_by_name():
    layout, rng = layout_of([(-1, 0)], "reference"), RngState.of(0)
    tokens, sampling = torch.tensor([[1, 2]]), SamplingParams()
    make = tk.TreeProposal.from_tokens
    wrong = {
        "tokens must be .1, 2., got .1, 3.": lambda: make(torch.zeros(1, 3).long(), layout, rng),
        "tokens must be int64, got float32": lambda: make(torch.zeros(1, 2), layout, rng),
        "sampling must be given": lambda: make(tokens, layout, rng, torch.zeros(1, 3, 5)),
        "logits must be contiguous .1, 3, ....": lambda: make(
            tokens, layout, rng, torch.zeros(1, 2, 5), sampling
        ),
        "token_mask must be None": lambda: make(tokens, layout, rng, token_mask=torch.zeros(1)),
        "live must be .1., got .2.": lambda: make(
            tokens, layout, rng, live=torch.ones(2, dtype=torch.bool)
        ),
        "rng must have 1 rows, got 2": lambda: make(tokens, layout, RngState.of([1, 2])),
    }
    for message, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=f"TreeProposal.from_tokens: {message}"):
            call()
    assert rng.round.tolist() == [0]
    tree = make(tokens, layout, rng)
    with pytest.raises(tk.NotYetSupported, match="tree_verify: rule tree_traversal"):
        tk.tree_verify(torch.zeros(1, 3, 5), tree, None, rng, rule="tree_traversal")
    with pytest.raises(ValueError, match="tree_verify: rule must be one of tree_token"):
        tk.tree_verify(torch.zeros(1, 3, 5), tree, None, rng, rule="token")
