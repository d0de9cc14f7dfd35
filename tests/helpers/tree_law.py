"""The exact law of one round with trees: every tree a drafter may draw, and every way it may end.

A walk ends at row r iff every node on the way to r is accepted, all siblings before them are
rejected and so are the children of r: one uniform each, at an address of its own.  Node i's
threshold is found with those nodes forced (uniforms at the ends of their range), so the law of
where the walk ends is a sum of products, and the token emitted there takes one more uniform.

``tree_traversal`` ends at the first node, children before the row they hang on, that its uniform
accepts: all those before it are rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tapout_kernels.draft_vocab import DraftVocab

from .integrate import ACCEPT, LATTICE, RESIDUAL, Noise, threshold, uniform_at
from .law import FIRST_SEED, Filter, columns, words
from .mutants import Reference
from .oracle import complete, markov, processed

TOKEN, TRAVERSAL = range(2)
PLAIN = Filter()


@dataclass
class TreeSetup:
    """One topology, and both sides as tables of logits by the last token."""

    parents: tuple[int, ...]
    target: np.ndarray  # [V, V]
    draft: np.ndarray  # [V, D]
    one_hot: bool = False  # children are the most probable ids instead of drawn
    target_filter: Filter = PLAIN
    draft_filter: Filter = PLAIN
    d2t: tuple[int, ...] | None = None
    target_mask: np.ndarray | None = None  # [V, V] by the last token
    start: int = 0
    rule: int = TOKEN

    @property
    def vocab(self) -> int:
        return self.target.shape[1]

    @property
    def ids(self) -> np.ndarray:
        return np.arange(self.draft.shape[1]) if self.d2t is None else np.array(self.d2t)

    def depth(self, node: int) -> int:
        return 0 if node < 0 else 1 + self.depth(self.parents[node])

    @property
    def steps(self) -> int:
        return 1 + max(map(self.depth, range(len(self.parents))))

    def p_target(self) -> np.ndarray:
        masks = [None] * self.vocab if self.target_mask is None else self.target_mask
        return np.stack([
            processed(z, *self.target_filter, m) for z, m in zip(self.target, masks, strict=True)
        ])  # fmt: skip

    def p_draft(self) -> np.ndarray:
        return np.stack([processed(z, *self.draft_filter) for z in self.draft])

    def siblings_before(self, node: int) -> list[int]:
        return [i for i in range(node) if self.parents[i] == self.parents[node]]

    def children(self, node: int) -> list[int]:
        return [i for i, parent in enumerate(self.parents) if parent == node]

    def way_to(self, node: int) -> list[int]:
        return [] if node < 0 else [*self.way_to(self.parents[node]), node]

    def below(self, node: int) -> list[int]:
        """The nodes under one, or under the root, children before the row they hang on."""
        return [i for child in self.children(node) for i in (*self.below(child), child)]

    def coins(self, node: int) -> tuple[list[int], list[int]]:
        """The nodes that are accepted, and those that are rejected, where it all ends at one."""
        if self.rule == TRAVERSAL:
            order = self.below(-1)
            return ([], order) if node < 0 else ([node], order[: order.index(node)])
        way = self.way_to(node)
        before = [j for i in way for j in self.siblings_before(i)]
        return way, [*before, *self.children(node)]


def drawn_trees(setup: TreeSetup) -> tuple[np.ndarray, np.ndarray]:
    """[n, N] target ids of every tree (-1: nothing left to draw), [n] its probability."""
    p_draft, found = setup.p_draft(), [((), 1.0)]
    for node, parent in enumerate(setup.parents):
        longer = []
        for tokens, weight in found:
            last = setup.start if parent < 0 else tokens[parent]
            q = p_draft[min(max(last, 0), setup.vocab - 1)].copy()
            taken = [np.flatnonzero(setup.ids == tokens[i]) for i in setup.siblings_before(node)]
            for column in taken:
                q[column] = 0
            if setup.one_hot:
                longer.append(((*tokens, int(setup.ids[q.argmax()])), weight))
            elif q.sum() == 0:
                longer.append(((*tokens, -1), weight))
            else:
                longer += [
                    ((*tokens, int(setup.ids[j])), weight * q[j] / q.sum())
                    for j in np.flatnonzero(q)
                ]
        found = longer
    return np.array([t for t, _ in found]), np.array([w for _, w in found])


class Trees:
    """``tree_verify`` of chosen trees, again and again with other uniforms."""

    def __init__(self, reference: Reference, setup: TreeSetup, tokens: Tensor):
        self.reference, self.setup, self.batch = reference, setup, len(tokens)
        nodes = len(setup.parents)
        self.seed = torch.arange(self.batch) + FIRST_SEED
        last = torch.cat([torch.full((self.batch, 1), setup.start), tokens], 1)
        context = last.clamp(0, setup.vocab - 1)
        layout = self._layout(tokens)
        self.out = {
            "tokens": torch.zeros(self.batch, nodes + 1, dtype=torch.int64),
            "path": torch.zeros(self.batch, nodes, dtype=torch.int32),
            **{name: torch.zeros(self.batch, dtype=torch.int32)
               for name in ("num_accepted", "num_emitted", "status")},
            "last_token": torch.zeros(self.batch, dtype=torch.int64),
        }  # fmt: skip
        masked = None
        if setup.target_mask is not None:
            masked = words(setup.target_mask)[context]
        self.arguments = {
            "target_logits": torch.tensor(setup.target)[context], "token_mask": masked,
            **columns([setup.target_filter] * self.batch), "seed": self.seed, "rows": None,
            "draft_tokens": tokens, "first_child": layout["first_child"],
            "next_sibling": layout["next_sibling"], "valid": layout["valid"],
            "live": torch.ones(self.batch, dtype=torch.bool), "round": self.seed + 1,
            **self._draft(tokens, context, layout["first_child"]), "logits_row": None,
            "rule": setup.rule, **self.out,
        }  # fmt: skip

    def _layout(self, tokens: Tensor) -> dict[str, Tensor]:
        batch, nodes = tokens.shape
        parents = torch.tensor(self.setup.parents, dtype=torch.int32).expand(batch, -1)
        ints = {"depth": nodes, "first_child": nodes + 1, "next_sibling": nodes}
        out = {name: torch.zeros(batch, n, dtype=torch.int32) for name, n in ints.items()} | {
            "size": torch.zeros(batch, dtype=torch.int32),
            "valid": torch.zeros(batch, dtype=torch.bool),
            "position_ids": torch.zeros(batch, nodes + 1, dtype=torch.int64),
            "ancestors": torch.zeros(batch, nodes, 1, dtype=torch.int32),
        }
        self.reference.ops["tree_layout"](parents, None, **out)
        assert out["valid"].all()
        return out

    def _draft(self, tokens: Tensor, context: Tensor, first: Tensor) -> dict[str, Tensor | None]:
        setup, (batch, rows) = self.setup, context.shape
        if setup.one_hot:
            return {"draft_logits": None, "t2d": None, "stats": torch.zeros(batch, rows, 8)}
        vocab = None
        if setup.d2t is not None:
            vocab = DraftVocab(torch.tensor(setup.d2t, dtype=torch.int32))
        logits = torch.tensor(setup.draft)[context]
        anchor = torch.where(first >= 0, tokens.gather(1, first.clamp(min=0).long()), -1).view(-1)
        if vocab is not None:
            anchor = torch.where(anchor >= 0, vocab.t2d[anchor.clamp(min=0)].long(), -1)
        stats = self.reference.module("stats")
        flat = logits.view(batch * rows, -1)
        sampling = stats.Sampling(**columns([setup.draft_filter] * len(flat)))
        rows_of = stats.process(flat, sampling)
        return {
            "draft_logits": logits, "t2d": None if vocab is None else vocab.t2d,
            "stats": stats.row_stats_of(rows_of, anchor).view(batch, rows, 8),
        }  # fmt: skip

    def __call__(self, accept: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """``accept`` [n, N] uniforms; ``residual`` [n] for whichever row the walk ends at."""
        noise = Noise(self.seed, len(self.setup.parents) + 1)
        noise.values[ACCEPT][:, :-1] = accept
        noise.values[RESIDUAL][:] = residual[:, None]
        self.reference.set_uniform(noise)
        position = torch.zeros(self.batch, dtype=torch.int64)
        self.reference.ops["tree_verify"](**self.arguments, position=position)
        self.read = noise.read
        return self.out


def tree_law(
    reference: Reference, setup: TreeSetup, drawn: Callable[[TreeSetup], tuple] = drawn_trees
) -> np.ndarray:
    """[V] * steps: the law of the tokens, each emission completed by the target."""
    reference.set_chunk(2)
    tokens, weight = drawn(setup)
    accepted, emitted = _measures(reference, setup, torch.tensor(tokens))
    tables, law = setup.p_target(), np.zeros((setup.vocab,) * setup.steps)
    tails = {}
    for tree, chance, coin, last in zip(tokens, weight, accepted, emitted, strict=True):
        for row in range(len(setup.parents) + 1):
            inside, out = setup.coins(row - 1)
            mass = chance * coin[inside].prod() * (1 - coin[out]).prod()
            for token in range(setup.vocab) if mass > 0 else ():
                prefix = (*(int(tree[i]) for i in setup.way_to(row - 1)), token)
                if prefix not in tails:
                    tails[prefix] = complete(tables, prefix, setup.steps)
                law += mass * last[row, token] * tails[prefix]
    return law


def accepted_tokens(reference: Reference, setup: TreeSetup) -> float:
    """How many nodes are accepted on average."""
    reference.set_chunk(2)
    tokens, weight = drawn_trees(setup)
    coins, _ = _measures(reference, setup, torch.tensor(tokens))
    total = 0.0
    for chance, coin in zip(weight, coins, strict=True):
        for node in range(len(setup.parents)):
            inside, out = setup.coins(node)
            mass = chance * coin[inside].prod() * (1 - coin[out]).prod()
            total += mass * setup.depth(node)
    return total


def _measures(
    reference: Reference, setup: TreeSetup, tokens: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """[n, N] the measure of the uniforms that accept each node once it is looked at, and
    [n, N+1, V] the law of the token emitted at each row."""
    count, nodes, edges = len(tokens), len(setup.parents), setup.vocab - 1
    asked = [(node, -1) for node in range(nodes)]
    asked += [(row - 1, v) for row in range(nodes + 1) for v in range(edges)]
    where = torch.tensor([node for node, _ in asked]).repeat(count)
    wanted = torch.tensor([v for _, v in asked]).repeat(count)
    low, high = uniform_at(torch.tensor([0, LATTICE - 1]))
    forced = torch.stack([_forced(setup, node, low, high) for node, _ in asked]).repeat(count, 1)
    verify = Trees(reference, setup, tokens.repeat_interleave(len(asked), 0))
    own = (torch.arange(nodes) == where[:, None]) & (wanted < 0)[:, None]

    def below(u: Tensor) -> Tensor:
        out = verify(torch.where(own, u[:, None], forced), u)
        taken = (out["path"] == where[:, None]).any(-1)
        return torch.where(wanted < 0, taken, out["last_token"] <= wanted)

    found = threshold(below, len(where)).measure.view(count, len(asked))
    at_most = found[:, nodes:].reshape(count, nodes + 1, edges)
    edged = torch.nn.functional.pad(at_most, (1, 0), value=0.0)
    edged = torch.nn.functional.pad(edged, (0, 1), value=1.0)
    return found[:, :nodes].numpy(), edged.diff(dim=-1).numpy()


def _forced(setup: TreeSetup, node: int, low: Tensor, high: Tensor) -> Tensor:
    """[N] uniforms that accept what leads to a node and nothing else."""
    out = high.repeat(len(setup.parents))
    out[setup.coins(node)[0]] = low
    return out


def target_law(setup: TreeSetup) -> np.ndarray:
    return markov(setup.p_target(), setup.start, setup.steps)


def tree_error(
    reference: Reference, setup: TreeSetup, drawn: Callable[[TreeSetup], tuple] = drawn_trees
) -> float:
    return float(np.abs(tree_law(reference, setup, drawn) - target_law(setup)).max())
