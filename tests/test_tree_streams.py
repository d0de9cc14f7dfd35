"""``tree_verify`` with the real random streams: chains to the bit, the joint law of rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.chi2 import p_value
from helpers.device import few, interpreted_if
from helpers.law import Filter, columns
from helpers.oracle import markov, processed
from test_tree_verify import layout_of, refused
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import RngState, SamplingParams
from tapout_kernels.reference.accept import RULES
from tapout_kernels.reference.rng import DRAFT, mix64, uniform
from tapout_kernels.reference.sampling import sample_index

OPS = ("tree_verify",)  # of the fixture `trees`
THRESHOLD = 1e-6

# ---- chains --------------------------------------------------------------------------------------

BATCH, SLOTS, VOCAB = 300, 4, 1500


@pytest.mark.parametrize("one_hot", [False, interpreted_if(False, True)], ids=["drawn", "one_hot"])
@pytest.mark.parametrize(
    "filters", [{}, interpreted_if(False, {"temperature": 0.8, "top_k": 200, "top_p": 0.95})]
)
@pytest.mark.parametrize("rule", [interpreted_if(rule == "token", rule) for rule in RULES])
@pytest.mark.sliced(4)
def test_a_chain_emits_what_verify_emits(trees, rule, filters, one_hot):
    """Node i hangs on node i - 1: the coins of slot i and node i have one address, to the bit."""
    if refused(trees, rule):
        return
    batch = few(trees, BATCH if trees == "cpu" else 30, 8)
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
    tree_rule = "tree_traversal" if rule == "block" else f"tree_{rule}"
    expected = tk.verify(target, chain, sampling, left, rule=rule, backend=trees)
    found = tk.tree_verify(target, tree, sampling, right, rule=tree_rule, backend=trees)
    for name in ("tokens", "num_accepted", "num_emitted", "last_token", "status"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(left.position, right.position)
    assert len(expected.num_accepted.unique()) > 2, "chains of several lengths"


# ---- the joint law -------------------------------------------------------------------------------

SMALL, START, TOKENS = 6, 0, 3
TABLES = np.random.default_rng(11).normal(size=(2, SMALL, SMALL)).astype(np.float32) * 1.5
TARGET_FILTER, DRAFT_FILTER = Filter(0.75, 5), Filter(1.5)
Order = Callable[[Tensor, Tensor], Tensor]


def replicas(backend: str) -> int:
    return few(backend, 12000 if backend == "cpu" else 3000, 1000, emulated=600)


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


def generate(drafter: Drafter, batch: int, backend: str, rule: str = "tree_token") -> Tensor:
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
        found = tk.tree_verify(target[rows], tree, sampling, rng, rule=rule, backend=backend)
        for j in range(len(drafter.parents) + 1):
            more = (found.tokens[:, j] >= 0) & (count < TOKENS)
            out[row[more], count[more]] = found.tokens[more, j]
            count += more
        last = found.last_token
    return out[:, :TOKENS]


def law() -> np.ndarray:
    return markov(np.stack([processed(z, *TARGET_FILTER) for z in TABLES[0]]), START, TOKENS)


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("one_hot", [False, True], ids=["drawn", "one_hot"])
@pytest.mark.parametrize("parents", [(-1, -1, -1), (-1, -1, 0, 0, 1), (-1, 0, -1, 1, 1, 2)])
@pytest.mark.sliced(4)
def test_consecutive_rounds_have_the_target_law(trees, parents, one_hot):
    """216 cells of three tokens, over rounds whose trees depend on what was emitted."""
    tokens = generate(Drafter(parents, one_hot), replicas(trees), trees)
    assert p_value(tokens, law()) > THRESHOLD


@pytest.mark.parametrize("one_hot", [False, True], ids=["drawn", "one_hot"])
@pytest.mark.sliced(3)
def test_traversed_rounds_have_the_target_law(trees, one_hot):
    if refused(trees, "tree_traversal"):
        return
    drafter = Drafter((-1, 0, -1, 1, 1, 2), one_hot)
    tokens = generate(drafter, replicas(trees), trees, "tree_traversal")
    assert p_value(tokens, law()) > THRESHOLD


def likelier_first(tokens: Tensor, probs: Tensor) -> Tensor:
    return tokens.gather(1, probs.gather(1, tokens).argsort(1, descending=True))


@pytest.mark.interpreted_slow
def test_children_in_another_order_than_drawn_are_rejected(trees):
    """What a drafter must not do; the operator cannot know."""
    wrong = Drafter((-1, -1, -1), False, likelier_first)
    assert p_value(generate(wrong, replicas(trees), trees), law()) < THRESHOLD


def test_the_drafts_own_noise_must_not_be_the_coins(monkeypatch):
    """One stream for both (vllm#54282): the test above sees it."""
    monkeypatch.setattr("test_tree_streams.DRAFT", 1)
    wrong = Drafter((-1, -1, -1), False)
    assert p_value(generate(wrong, replicas("cpu"), "cpu"), law()) < THRESHOLD


# ---- gumbel --------------------------------------------------------------------------------------


def test_gumbel_output_is_the_targets_own(trees):
    """Whatever the tree: what is emitted is what sampling alone emits at those positions."""
    batch, vocab = few(trees, 200, 8), 50
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
