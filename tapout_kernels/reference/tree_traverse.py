"""Rule ``tree_traversal`` (Traversal Verification 2505.12398): block verification of trees.

Leaves come first.  A node is reached with a weight w = min(1, w' p_target(x) / p_draft(x)), that
of the row it hangs on times the ratio of its token; its own row then stands for the measure
w p_target.  A node all of whose children were rejected is accepted iff u < w.  A rejected one
takes p_draft from the measure of its row: with S = sum [w p_target - p_draft]_+ and
D = S + 1 - w, the chance of that rejection, what is left is [w p_target - p_draft]_+ / D, of sum
w = S / D, and p_draft loses the token and is renormalised.  The root is always accepted.  A chain
is verified as rule ``block`` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import residual
from .draft import over_target
from .rng import ACCEPT, uniform
from .tree import next_child, rejected_draft
from .tree_rows import Child, Given, Row, Walk, child_at, row_at


class Traversal:
    """Every request at a row of its own; what was found of all rows above stays.

    A step goes down to a child, refuses one that weighs nothing, or decides about the node itself:
    it is accepted, or the row above it is next, less that child.
    """

    def __init__(self, given: Given):
        batch, nodes = given.tokens.shape
        device = given.tokens.device
        self.given, self.here = given, torch.arange(batch, device=device)
        self.at = torch.zeros(batch, dtype=torch.int64, device=device)
        self.count = torch.zeros_like(self.at)  # nodes on the way to `at`
        self.path = torch.full((batch, nodes), -1, device=device)
        self.bad = torch.zeros(batch, dtype=torch.bool, device=device)
        self.done = torch.zeros_like(self.bad)
        self.seen = torch.zeros(batch, nodes, dtype=torch.bool, device=device)
        self.above, self.child = (torch.full((batch, nodes + 1), -1, device=device) for _ in "ab")
        self.spent = torch.zeros(batch, nodes + 1, dtype=torch.bool, device=device)
        self.weight = torch.ones(batch, nodes + 1, dtype=torch.float64, device=device)
        root = self.row()
        self.measure = root.p_target[:, None].repeat(1, nodes + 1, 1)
        self.p_draft = None
        if root.p_draft is not None:
            self.p_draft = root.p_draft[:, None].repeat(1, nodes + 1, 1)
        self.child[:, 0] = root.child

    def step(self) -> None:
        here, at, going = self.here, self.at, ~self.done
        node, child = self._child()
        known = node.clamp(min=0)
        looked = going & (node >= 0) & ~self.spent[here, at] & ~self.seen[here, known]
        bad = looked & ~(child.p_draft > 0)
        self.bad |= bad
        self.child[here, at] = torch.where(bad, -1, node)
        looked &= ~bad
        self.seen[here, known] |= looked
        weight = self._weight_of(child)
        ends = going & ~looked & ~bad
        self.done |= ends & self.accepted()
        rejected = ends & ~self.done
        self._go_up(rejected)
        self._reject(rejected | (looked & (weight == 0)))
        self._go_down(looked & (weight > 0), weight)

    def row(self) -> Row:
        """As it is before any rejection."""
        return row_at(self.given, self.at, self.count)

    def accepted(self) -> Tensor:
        """[B] whether each node is, now that its children are not."""
        slot = (self.at - 1).clamp(min=0)
        u = uniform(self.given.seed, 0, slot, self.given.round, ACCEPT)
        return (self.at == 0) | (u < self.weight[self.here, self.at])

    def _child(self) -> tuple[Tensor, Child]:
        """[B] the node that each row looks at next, -1: none; and what it is."""
        node = self.child[self.here, self.at]
        left = None if self.p_draft is None else self.p_draft[self.here, self.at]
        return node, child_at(self.given, node, left)

    def _weight_of(self, child: Child) -> Tensor:
        token = torch.where(child.inside, child.token, 0)
        mass = torch.where(child.inside, self.measure[self.here, self.at, token], 0.0)
        return (mass / child.p_draft.clamp(min=1e-300)).clamp(max=1.0)

    def _go_up(self, moving: Tensor) -> None:
        above = self.above[self.here, self.at]
        self.count = self.count - moving.long()
        slot = torch.arange(self.path.shape[1], device=self.at.device) == self.count[:, None]
        self.path = torch.where(slot & moving[:, None], -1, self.path)
        self.at = torch.where(moving, above, self.at)

    def _reject(self, moving: Tensor) -> None:
        """The row's child: what it leaves, and its sibling."""
        here, at = self.here, self.at
        node, child = self._child()
        measure, weight = self.measure[here, at], self.weight[here, at]
        if self.p_draft is None:
            vocab = measure.shape[-1]
            drawn = torch.nn.functional.one_hot(child.token.clamp(0, vocab - 1), vocab).double()
        else:
            p_draft = self.p_draft[here, at]
            drawn = over_target(p_draft, self.given.draft)
            left = rejected_draft(p_draft, child.id.clamp(min=0))
            self.p_draft[here, at] = torch.where(moving[:, None], left, p_draft)
            self.spent[here, at] |= moving & (left.sum(-1) == 0)
        rest = residual(measure, drawn)
        mass = rest.sum(-1)
        chance = mass + (1 - weight)  # 0: p_target is p_draft, no child can be rejected
        possible = chance > 0
        self.spent[here, at] |= moving & ~possible
        rest = torch.where(possible[:, None], rest / chance[:, None], 0.0)
        self.measure[here, at] = torch.where(moving[:, None], rest, measure)
        mass = torch.where(possible, mass / chance, 1.0)
        self.weight[here, at] = torch.where(moving, mass, weight)
        self.bad |= moving & ~child.inside
        sibling, after = self.given.next_sibling[here, node.clamp(min=0)], node + 1
        sibling = next_child(sibling, after, self.path.shape[1])
        self.child[here, at] = torch.where(moving, sibling, node)

    def _go_down(self, moving: Tensor, weight: Tensor) -> None:
        here, node = self.here, self.child[self.here, self.at]
        at = torch.where(moving, node + 1, self.at)
        self.above[here, at] = torch.where(moving, self.at, self.above[here, at])
        slot = torch.arange(self.path.shape[1], device=at.device) == self.count[:, None]
        self.path = torch.where(slot & moving[:, None], node[:, None], self.path)
        self.count, self.at = self.count + moving, at
        row = self.row()
        keep = moving[:, None]
        self.weight[here, at] = torch.where(moving, weight, self.weight[here, at])
        self.child[here, at] = torch.where(moving, row.child, self.child[here, at])
        measure = weight[:, None] * row.p_target
        self.measure[here, at] = torch.where(keep, measure, self.measure[here, at])
        if self.p_draft is not None:
            self.p_draft[here, at] = torch.where(keep, row.p_draft, self.p_draft[here, at])


def traverse(given: Given) -> Walk:
    """Where each request ends, and what its row has left."""
    t = Traversal(given)
    for _ in range(2 * given.tokens.shape[1] + 1):  # down and up once for every node
        t.step()
    row = t.row()._replace(p_target=t.measure[t.here, t.at])
    return Walk(row, t.count, t.bad, t.path)
