"""Contract 7 for ``tree_verify``: a row whose integers differ must be explained by a near tie."""

from __future__ import annotations

import torch
from torch import Tensor

from tapout_kernels.reference.accept import GUMBEL, TOKEN
from tapout_kernels.reference.gumbel import gumbel_noise
from tapout_kernels.reference.rng import ACCEPT, RESIDUAL, uniform
from tapout_kernels.reference.stats import Sampling
from tapout_kernels.reference.tree import next_child, rejected_draft, rejected_target
from tapout_kernels.reference.tree_verify import (
    Child,
    Row,
    child_of,
    given_tree,
    over_target,
    row_at,
)

from .compare import Noise, Rows, check_draw, check_inverse_cdf, near

INTEGERS = ("tokens", "path", "num_accepted", "num_emitted", "last_token", "status")
READS = (
    "token_mask", "seed", "rows", "draft_tokens", "first_child", "next_sibling", "valid", "round",
    "draft_logits", "logits_row", "t2d", "stats", "rule", "position",
)  # fmt: skip


class Walked:
    """One request, from the root down the path that was found."""

    def __init__(self, args: dict, cutoffs: Tensor, b: int):
        """``cutoffs`` [B, N+1]: what the backend's own row_stats keeps of each target row."""
        sampling = Sampling(*(args[name] for name in Sampling._fields))
        self.given, self.state = given_tree(
            args["target_logits"], sampling, **{name: args[name] for name in READS}
        )
        self.args, self.cutoffs, self.b = args, cutoffs, b
        self.rule = args["rule"]

    def check(self, found: dict) -> None:
        b, context = self.b, f"tree_verify row {self.b}"
        assert self.args["live"][b] & self.state.known[b], f"{context}: not live"
        count, tokens = int(found["num_accepted"][b]), found["tokens"][b].tolist()
        path = found["path"][b].tolist()
        assert path[count:] == [-1] * (len(path) - count), context
        at, bad = 0, not bool(self.args["valid"][b])
        for depth in range(count + 1):
            node = path[depth] if depth < count else -1
            row = self._row(at, depth)
            status = int(row.target.status[b])
            if status != 0:
                assert node < 0, f"{context}: a row of status {status} accepts nothing"
                assert found["status"][b] == status, context
                assert found["num_emitted"][b] == count, context
                return
            bad |= self._decide(row, node, tokens[depth], depth, context)
            at = node + 1
        assert found["num_emitted"][b] == count + 1, context
        assert found["last_token"][b] == tokens[count], context
        assert found["status"][b] == (3 if bad else 0), context
        assert tokens[count + 1 :] == [-1] * (len(tokens) - count - 1), context

    def _row(self, at: int, depth: int) -> Row:
        count = self.given.seed.shape[0]
        row = row_at(self.given, torch.full((count,), at), torch.full((count,), depth))
        if row.target.status[self.b] != 0 or self.rule != TOKEN:
            return row
        rows = self._rows(row)
        rows.check_cutoff(self.b, self.cutoffs[self.b, at].item(), "tree_verify")
        weights = rows.weights(self.b, self.cutoffs[self.b, at].item())
        p_target = row.p_target.clone()
        p_target[self.b] = weights / weights.sum()
        return row._replace(p_target=p_target)

    def _rows(self, row: Row) -> Rows:
        masked = torch.where(row.target.status[:, None] == 0, row.target.logits, -torch.inf)
        return Rows(masked, self.given.sampling, rule=self.rule)

    def _decide(self, row: Row, node: int, token: int, depth: int, context: str) -> bool:
        """The children of a row were looked at as they should; whether one of them was bad."""
        b, given, bad = self.b, self.given, False
        if self.rule != TOKEN:
            return self._equal(row, node, token, depth, context)
        first, taken = row, []
        while (child := int(row.child[b])) >= 0 and not row.spent[b]:
            one = child_of(given, row)
            bad |= not one.p_draft[b] > 0 or not one.inside[b]
            if not one.p_draft[b] > 0:
                break
            left, right = self._sides(first, one, taken, child)
            decided = (left < right) == (child == node)
            assert decided or near(left, right), f"{context} node {child}: {left}, {right}"
            if child == node:
                return bad
            row = self._rejected(row, one, child)
            taken.append(int(one.id[b]))
        assert node < 0, f"{context}: node {node} is no child that was looked at"
        p = row.p_target[b] if row.p_target[b].sum() > 0 else first.p_target[b]
        u = uniform(given.seed[b], 0, row.at[b], given.round[b], RESIDUAL).item()
        check_inverse_cdf(p, token, u, context)
        return bad

    def _sides(self, first: Row, one: Child, taken: list[int], child: int) -> tuple[float, float]:
        """Accepted iff left < right, as csrc/core/tree.h has it: sums of one sign each."""
        b, given = self.b, self.given
        u = uniform(given.seed[b], 0, torch.tensor(child), given.round[b], ACCEPT).item()
        p = first.p_target[b]
        p_target = p[one.token[b]].item() if one.inside[b] else 0.0
        if first.p_draft is None:
            rejected = sum(p[token].item() for token in set(taken))
            return u * (1 - rejected), 0.0 if int(one.token[b]) in taken else p_target
        q, slope, mass, left = first.p_draft[b].clone(), 0.0, 1.0, 1.0
        over = over_target(first.p_draft, given.draft)[b]
        for column in taken:
            slope += mass / left
            q[column] = 0
            left, mass = q.sum().item(), (p - slope * over).clamp(min=0).sum().item()
        return q[one.id[b]].item() * (u * mass + slope * left), p_target * left

    def _rejected(self, row: Row, one: Child, child: int) -> Row:
        given, b = self.given, self.b
        if row.p_draft is None:
            drawn = torch.zeros_like(row.p_target)
            drawn[b, one.token[b]] = 1.0
            left, spent = None, row.spent
        else:
            drawn = over_target(row.p_draft, given.draft)
            left = rejected_draft(row.p_draft, one.id.clamp(min=0))
            spent = left.sum(-1) == 0
        sibling = given.next_sibling[b, child].long()
        following = row.child.clone()
        following[b] = next_child(sibling, torch.tensor(child + 1), given.tokens.shape[1])
        p_target = rejected_target(row.p_target, drawn)
        return row._replace(p_target=p_target, p_draft=left, spent=spent, child=following)

    def _equal(self, row: Row, node: int, token: int, depth: int, context: str) -> bool:
        """gumbel, greedy: the row's own token, and the first child that equals it."""
        b, given = self.b, self.given
        noise = Noise(None, None)
        if self.rule == GUMBEL:
            ids = torch.arange(given.target_logits.shape[-1])
            noise = Noise(None, gumbel_noise(given.seed, given.position + depth, ids))
        cutoff = self.cutoffs[b, row.at[b]].item()
        check_draw(self._rows(row), b, token, noise, context, cutoff)
        child = int(row.child[b])
        while child >= 0:
            drafted = int(given.tokens[b, child])
            if not 0 <= drafted < given.target_logits.shape[-1]:
                assert node < 0, context
                return True
            if drafted == token:
                assert node == child, f"{context}: node {node}, expected {child}"
                return False
            sibling = given.next_sibling[b, child].long()
            child = int(next_child(sibling, torch.tensor(child + 1), given.tokens.shape[1]))
        assert node < 0, context
        return False


def check_tree_verify(args: dict, found: dict, expected: dict, cutoffs: Tensor) -> int:
    """Returns how many rows differ in an integer, all of them allowed to."""
    batch = len(args["draft_tokens"])
    different = torch.zeros(batch, dtype=torch.bool)
    for name in INTEGERS:
        different |= (found[name] != expected[name]).view(batch, -1).any(-1)
    for b in different.nonzero()[:, 0].tolist():
        Walked(args, cutoffs, b).check(found)
    moved = found["position"] - args["position"]
    assert moved.sum() == found["num_emitted"].sum(), "positions of other rows moved"
    if not different.any():
        assert torch.equal(found["position"], expected["position"])
    return int(different.sum())
