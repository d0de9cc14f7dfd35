"""Contract 7 for ``tree_expand``: every child is one that its noise draws, up to a near tie, and
what follows from the children found is exact."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from tapout_kernels.reference.rng import DRAFT, uniform
from tapout_kernels.reference.stats import CUTOFF, TOKEN_LOGPROB
from tapout_kernels.reference.tree_expand import Tree, _finish, beam_logsumexp
from tapout_kernels.reference.vocab import allowed_ids, target_ids
from tapout_kernels.testing import TOLERANCES

from .compare import Rows, batch_of, check_inverse_cdf, check_stats, exact, near

NOTHING = 1e-30  # of p_draft, left by children that took the rest: no f32 row tells it from none
NEXT = ("next_beam", "next_row", "next_token")


def check_tree_expand(args: dict, found: dict, expected: dict) -> int:
    """Returns how many requests differ in a token, all of them allowed to."""
    batch = batch_of(args, len(args["tokens"]))
    drafting = args["active"] & batch.state.known
    exact(found, expected, ["parents"], "tree_expand")
    different = (found["tokens"] != expected["tokens"]).any(-1)
    assert not (different & ~drafting).any(), "tree_expand: a request that drafts nothing"
    begin, end = int(args["child_start"][0]), int(args["child_start"][-1])
    for name in ("tokens", "score"):
        for other in (slice(0, begin), slice(end, None)):
            assert torch.equal(found[name][:, other], args[name][:, other]), f"{name} of others"
    judged = torch.zeros(len(different), args["tokens"].shape[1] + 1, dtype=torch.bool)
    for w in range(args["beam"].shape[1]):
        for b in _check_row(args, batch, w, drafting, found, expected):
            judged[b, args["beam"][b, w] + 1] = True
    _check_end(args, drafting, found)
    exact(found, expected, ["score", *(NEXT if NEXT[0] in found else ())], "idle", ~drafting)
    if "stats" in found:
        childless = _failed_rows(args, batch, drafting, expected)
        kept = [side["kept_logits"].float()[~childless] for side in (found, expected)]
        torch.testing.assert_close(*kept, atol=0, rtol=0, equal_nan=True)
        others = [side["stats"][~judged] for side in (found, expected)]
        torch.testing.assert_close(*others, atol=0, rtol=0, equal_nan=True)
    return int(different.sum())


def _failed_rows(args: dict, batch, drafting, expected: dict) -> torch.Tensor:
    """[B, N+1] rows that were looked at and have no children, so that nobody reads what is kept of
    them: a GPU copies a row while it learns that nothing can be drawn from it."""
    found = torch.zeros(expected["stats"].shape[:2], dtype=torch.bool)
    for w in range(args["beam"].shape[1]):
        begin, end = args["child_start"][w : w + 2].tolist()
        none = ~(expected["tokens"][:, begin:end] >= 0).any(-1) & drafting
        for b in none.nonzero()[:, 0].tolist():
            found[b, max(int(args["beam"][b, w]) + 1, 0)] |= int(args["beam"][b, w]) >= -1
    return found


def _check_row(args: dict, batch, w: int, drafting, found: dict, expected: dict) -> Iterator[int]:
    """The requests whose row was looked at."""
    ids = target_ids(args["d2t"], args["logits"].shape[-1], args["logits"].device)
    mask = None if args["token_mask"] is None else args["token_mask"][:, w]
    rows = Rows(args["logits"][:, w], batch.sampling, allowed_ids(mask, ids))
    begin, end = args["child_start"][w : w + 2].tolist()
    for b in drafting.nonzero()[:, 0].tolist():
        node, context = int(args["beam"][b, w]), f"tree_expand request {b} row {w}"
        children = range(begin, min(end, begin + args["children"]))
        tokens = found["tokens"][b, list(children)].tolist()
        others = expected["tokens"][b, list(children)].tolist()
        if not any(token >= 0 for token in others):
            assert not any(token >= 0 for token in tokens), context
            continue
        yield b
        cutoff = None
        if "stats" in found:
            first = tokens[0], others[0]
            cutoff = _check_stats(rows, b, node, *first, found, expected, context)
        weights = rows.weights(b, cutoff)
        above = float(found["score"][b, node]) if node >= 0 else 0.0
        left, total = weights.clone(), weights.sum().item()
        for child, token in zip(children, tokens, strict=True):
            score = found["score"][b, child].item()
            if token < 0:
                assert left.sum().item() <= NOTHING * total, f"{context}: a child is missing"
                assert score == -math.inf, context
                continue
            column = (ids == token).nonzero()[:, 0]
            assert len(column) == 1, f"{context}: {token} is no id of the draft"
            _check_choice(args, batch, b, child, column.item(), left, context)
            expects = above + math.log(weights[column].item() / total)
            atol, rtol = TOLERANCES["token_logprob"]
            assert abs(score - expects) <= atol + rtol * abs(expects), f"{context}: score {score}"
            left[column] = 0


def _check_choice(args: dict, batch, b: int, child: int, column: int, left, context: str) -> None:
    if not args["drawn"]:
        assert column == int(left.argmax()), f"{context}: child {child} is not the best"
        return
    u = uniform(batch.of(args["seed"])[b], 0, torch.tensor(child), args["round"][b], DRAFT)
    check_inverse_cdf(left, column, u.item(), f"{context} child {child}")


def _check_stats(
    rows: Rows, b: int, node: int, first: int, other: int, found: dict, expected: dict, context: str
) -> float:
    """Given the first child; the cutoff."""
    mine, theirs = (side["stats"][b, node + 1 : node + 2].clone() for side in (found, expected))
    if first != other:
        mine[0, TOKEN_LOGPROB] = theirs[0, TOKEN_LOGPROB]
    check_stats(mine, theirs, rows.take(torch.tensor([b])), context)
    return mine[0, CUTOFF].item()


def _check_end(args: dict, drafting, found: dict) -> None:
    """The next level's rows are those of the tree that was found."""
    tree = Tree(found["tokens"], found["parents"], found["score"], None)
    active, depth = args["active"].clone(), args["depth"].clone()
    following = tuple(None if args[name] is None else args[name].clone() for name in NEXT)
    _finish(tree, drafting, args["child_start"], args["next_node"], args["threshold"], active,
            depth, following)  # fmt: skip
    assert torch.equal(found["depth"], depth), "tree_expand: depth"
    for name, value in zip(NEXT, following, strict=True):
        assert value is None or torch.equal(found[name], value), f"tree_expand: {name}"
    for b in (found["active"] != active).nonzero()[:, 0].tolist():
        level = beam_logsumexp(tree.score, following[0])[b].item()
        assert near(level, args["threshold"][b].item()), f"tree_expand request {b}: active"
