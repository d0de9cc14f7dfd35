"""``tree_verify`` by hand: paths, rows and children that are not what they should be, proposals."""

from __future__ import annotations

import pytest
import torch
from helpers.device import few, interpreted_if, is_refused
from helpers.raw import caller
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import RngState, SamplingParams, _library
from tapout_kernels.reference.accept import RULES
from tapout_kernels.reference.tree import TREE_RULES
from tapout_kernels.testing import Case

OPS = ("tree_layout", "tree_verify")  # of the fixture `trees`
OK, NAN, EMPTY, BAD_DRAFT = range(4)


def refused(backend: str, rule: str) -> bool:
    """Of ``tree_traversal`` not every backend has a kernel; then it says so."""
    rule = "block" if rule == "tree_traversal" else rule.removeprefix("tree_")
    return is_refused(backend, Case("tree_verify", rule=rule))


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
@pytest.mark.sliced(4)
def test_paths_of_a_certain_target(trees, rule, rows, path, tokens):
    """A target of one id a row: every rule goes where it points, and emits it where no child is."""
    if refused(trees, rule):
        return
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
@pytest.mark.sliced(4)
def test_an_invalid_row_ends_the_path(trees, rule, value, status):
    if refused(trees, rule):
        return
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
@pytest.mark.sliced(4)
def test_a_child_that_cannot_be_ends_its_row(trees, rule, bad):
    """Node 0 is nobody's id: node 1 after it is not looked at."""
    if refused(trees, rule):
        return
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
    batch = few(trees, 64, 8)
    layout = layout_of([(-1, -1)] * batch, trees)
    logits = torch.zeros(batch, 3, 4)
    target = certain(3, 0, 0, vocab=4).repeat(batch, 1, 1)
    for tokens, status in (((1, 1), BAD_DRAFT), ((1, 2), OK)):
        proposal = tk.TreeProposal.from_tokens(
            torch.tensor([tokens]).repeat(batch, 1), layout, RngState.of(range(batch)),
            logits.clone(), SamplingParams(), backend=trees,
        )  # fmt: skip
        found = tk.tree_verify(target, proposal, None, RngState.of(range(batch)), backend=trees)
        assert found.status.tolist() == [status] * batch
        assert found.tokens[:, 0].tolist() == [3] * batch


def test_one_hot_children_that_repeat_are_rejected(trees):
    """What was rejected once has nothing of the target left, however often it is proposed."""
    batch = few(trees, 64, 16)
    layout = layout_of([(-1, -1, -1)] * batch, trees)
    target = torch.tensor([0.3, 0.3, 0.4]).log().expand(batch, 4, 3)
    tokens = torch.tensor([(0, 0, 1)]).repeat(batch, 1)
    proposal = tk.TreeProposal.from_tokens(tokens, layout, RngState.of(range(batch)))
    found = tk.tree_verify(target, proposal, None, RngState.of(range(batch)), backend=trees)
    assert set(found.path[:, 0].tolist()) == {-1, 0, 2}
    assert found.status.tolist() == [OK] * batch


def test_nothing_left_to_draw_ends_the_children(trees):
    """Top-k leaves the draft two ids; a third child, whatever it says, is not looked at."""
    batch = few(trees, 64, 8)
    layout = layout_of([(-1, -1, -1)] * batch, trees)
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0]).expand(batch, 4, 4).contiguous()
    target = certain(2, 0, 0, 0, vocab=4).repeat(batch, 1, 1)
    sampling = SamplingParams.of(batch, top_k=2)
    for third in (2, -1):
        proposal = tk.TreeProposal.from_tokens(
            torch.tensor([(0, 1, third)]).repeat(batch, 1), layout, RngState.of(range(batch)),
            logits, sampling, backend=trees,
        )  # fmt: skip
        found = tk.tree_verify(target, proposal, None, RngState.of(range(batch)), backend=trees)
        assert found.status.tolist() == [OK] * batch
        assert found.num_accepted.tolist() == [0] * batch
        assert found.tokens[:, 0].tolist() == [2] * batch


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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("drafts", ["full", interpreted_if(False, "one_hot")])
def test_links_that_lead_anywhere_end(trees, rule, drafts):
    """Raw operators take any numbers: all read them alike, and come to an end."""
    if refused(trees, rule):
        return
    case = Case("tree_verify", few(trees, 8, 4), 6, 40, rule=rule, drafts=drafts)
    for links in hostile_links(case.inputs()):
        found = []
        for backend in ("reference", trees):
            args = {**case.inputs(), **links}
            caller(backend)("tree_verify", **args)
            found.append((args["tokens"].tolist(), args["path"].tolist(), args["status"].tolist()))
        assert found[0] == found[1]


def test_operators_without_the_rule_do_not_run_another(trees):
    """What the public function refuses by name; the others run it."""
    if trees not in _library.NO_KERNEL:
        args = Case("tree_verify", rule="block").inputs()
        caller(trees)("tree_verify", **args)
        assert (args["num_emitted"] > 0).any()
        return
    with pytest.raises((ValueError, RuntimeError), match="rule must be 0, 2 or 3 on a GPU, got 1"):
        caller(trees)("tree_verify", **Case("tree_verify", rule="block").inputs())


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
    for backend in ("triton", "cuda"):
        with pytest.raises(tk.BackendUnavailable, match="no kernel of rule tree_traversal"):
            tk.tree_verify(
                torch.zeros(1, 3, 5), tree, None, rng, rule="tree_traversal", backend=backend
            )
    with pytest.raises(ValueError, match="tree_verify: rule must be one of tree_token"):
        tk.tree_verify(torch.zeros(1, 3, 5), tree, None, rng, rule="token")
