"""Contract 7 for ``tree_verify``: a row whose integers differ must be explained by a near tie."""

from __future__ import annotations

import torch
from torch import Tensor

from tapout_kernels.reference.accept import BLOCK, GUMBEL, TOKEN
from tapout_kernels.reference.gumbel import gumbel_noise
from tapout_kernels.reference.rng import ACCEPT, RESIDUAL, uniform
from tapout_kernels.reference.stats import Sampling
from tapout_kernels.reference.tree import next_child, rejected_draft, rejected_target
from tapout_kernels.reference.tree_rows import Child, Row, child_at, row_at
from tapout_kernels.reference.tree_traverse import Traversal
from tapout_kernels.reference.tree_verify import given_tree, over_target

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
        p_target = row.p_target.clone()
        p_target[self.b] = self.cut(row, at)
        return row._replace(p_target=p_target)

    def cut(self, row: Row, at: int) -> Tensor:
        """[V] p_target of row ``at``, from the backend's cutoff."""
        rows = self._rows(row)
        rows.check_cutoff(self.b, self.cutoffs[self.b, at].item(), "tree_verify")
        weights = rows.weights(self.b, self.cutoffs[self.b, at].item())
        return weights / weights.sum()

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
            one = child_at(given, row.child, row.p_draft)
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


class Traversed(Traversal):
    """The reference on the rows as the backend cuts them; the decisions about one request."""

    def __init__(self, walked: Walked):
        self.walked, self.decisions = walked, []  # (node, u, weight), as they were made
        super().__init__(walked.given)

    def row(self) -> Row:
        b = self.walked.b
        row = super().row()
        if row.target.status[b] == 0:
            p_target = row.p_target.clone()
            p_target[b] = self.walked.cut(row, int(self.at[b]))
            row = row._replace(p_target=p_target)
        return row

    def accepted(self) -> Tensor:
        given, b, at = self.given, self.walked.b, self.at[self.walked.b]
        looked = self.child[b, at] < 0 or self.spent[b, at]
        if not self.done[b] and at > 0 and looked:
            u = uniform(given.seed[b], 0, at - 1, given.round[b], ACCEPT).item()
            self.decisions.append((int(at) - 1, u, self.weight[b, at].item()))
        return super().accepted()

    def check(self, found: dict) -> None:
        """Either a decision was close, or the path is the same and the token was."""
        b, context = self.walked.b, f"tree_verify row {self.walked.b}"
        for _ in range(2 * self.path.shape[1] + 1):
            self.step()
        count = int(found["num_accepted"][b])
        if found["path"][b].tolist() != self.path[b].tolist():
            node = int(found["path"][b, count - 1]) if count else -1
            for i, u, weight in self.decisions:  # up to the first that was made otherwise
                if (u < weight) != (i == node):
                    assert near(u, weight), f"{context} node {i}: {u}, {weight}"
                    return
            raise AssertionError(f"{context}: {found['path'][b]} and no decision of the reference")
        at, row = self.at[b], self.row()
        assert row.target.status[b] == 0, f"{context}: a row that emits nothing"
        assert found["num_emitted"][b] == count + 1, context
        assert found["status"][b] == (3 if self.bad[b] or not self.walked.args["valid"][b] else 0)
        measure = self.measure[b, at]
        rest = measure if measure.sum() > 0 else row.p_target[b]
        u = uniform(self.given.seed[b], 0, at, self.given.round[b], RESIDUAL).item()
        token = int(found["tokens"][b, count])
        assert found["last_token"][b] == token, context
        check_inverse_cdf(rest / rest.sum(), token, u, context)


def check_tree_verify(args: dict, found: dict, expected: dict, cutoffs: Tensor) -> int:
    """Returns how many rows differ in an integer, all of them allowed to."""
    batch = len(args["draft_tokens"])
    different = torch.zeros(batch, dtype=torch.bool)
    for name in INTEGERS:
        different |= (found[name] != expected[name]).view(batch, -1).any(-1)
    for b in different.nonzero()[:, 0].tolist():
        walked = Walked(args, cutoffs, b)
        (Traversed(walked) if args["rule"] == BLOCK else walked).check(found)
    moved = found["position"] - args["position"]
    assert moved.sum() == found["num_emitted"].sum(), "positions of other rows moved"
    if not different.any():
        assert torch.equal(found["position"], expected["position"])
    return int(different.sum())
