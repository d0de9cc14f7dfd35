"""Contract 7: where two backends may differ, and nowhere else.

Integers must be equal unless the reference itself says that the decision was a near tie; floats
are compared by the tolerance table, given the same cutoff, token and length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tapout_kernels.reference.rng import ACCEPT, DRAFT, RESIDUAL, uniform
from tapout_kernels.reference.stats import process
from tapout_kernels.reference.verify import draft_distribution, draft_prob
from tapout_kernels.testing import NEAR, STATS_COLUMNS, TOLERANCES

GREEDY = 3
CUTOFF, TOKEN_LOGPROB, LSE, TEMPERATURE = 5, 4, 0, 6


def close(name: str, found: Tensor, expected: Tensor, context: str) -> None:
    atol, rtol = TOLERANCES[name]
    torch.testing.assert_close(
        found, expected, atol=atol, rtol=rtol, equal_nan=True,
        msg=lambda m: f"{context} {name}: {m}",
    )  # fmt: skip


def near(left: float, right: float) -> bool:
    return abs(left - right) <= NEAR * max(abs(left), abs(right))


class Rows:
    """Rows of logits with their columns, in float64: what a decision about one of them may be."""

    def __init__(self, logits: Tensor, args: dict, rule: int, repeat: int = 1):
        names = ("temperature", "top_k", "top_p")
        columns = [args[n] if args[n] is None else args[n].repeat_interleave(repeat) for n in names]
        self.logits, self.top_p = logits.double(), columns[2]
        self.full = process(logits, *columns[:2], None, greedy=rule == GREEDY)  # before top-p
        self.rows = process(logits, *columns, greedy=rule == GREEDY)

    def weights(self, r: int, cutoff: float | None = None) -> Tensor:
        """[V] weights of row r under a cutoff that has been allowed."""
        if cutoff is None or self.rows.temperature[r] == 0:
            return self.rows.weights[r]
        return torch.where(self.logits[r] >= cutoff, self.full.weights[r], 0.0)

    def check_cutoff(self, r: int, cutoff: float, context: str) -> None:
        """A different cutoff is a logit of the row whose mass is within NEAR of the limit."""
        mine = self.rows.cutoff[r].item()
        if cutoff == mine or self.rows.status[r] != 0:
            return
        z, weights = self.logits[r], self.full.weights[r]
        assert (z == cutoff).any(), f"{context}: cutoff {cutoff} is not a logit"
        assert self.top_p is not None, f"{context}: cutoff {cutoff}, expected {mine}"
        p, limit = weights / weights.sum(), self.top_p[r].item()
        low, high = sorted((cutoff, mine))
        # Every logit between the two cutoffs was in doubt.
        doubtful = p[z >= high].sum().item() if cutoff < mine else p[z > low].sum().item()
        assert abs(doubtful - limit) <= NEAR, f"{context}: cutoff {cutoff}, expected {mine}"


def exact(found: dict, expected: dict, names: list[str], context: str, rows=slice(None)) -> None:
    for name in names:
        assert torch.equal(found[name][rows], expected[name][rows]), f"{context}: {name} differs"


def check_draw(weights: Tensor, token: int, u: float, context: str) -> None:
    """CDF64(id - 1) - NEAR <= u <= CDF64(id) + NEAR, and the id has mass."""
    assert 0 <= token < len(weights), f"{context}: id {token} is outside the vocabulary"
    cdf = weights.cumsum(0) / weights.sum()
    below = cdf[token - 1].item() if token else 0.0
    inside = below - NEAR <= u <= cdf[token].item() + NEAR
    assert weights[token] > 0, f"{context}: id {token} has no mass"
    assert inside, f"{context}: id {token} for u = {u}, its CDF is [{below}, {cdf[token].item()}]"


def check_stats(found: Tensor, expected: Tensor, rows: Rows, context: str) -> None:
    """[R, 8] statistics given the same cutoff and token."""
    same_cutoff = found[:, CUTOFF].eq(expected[:, CUTOFF]) | expected[:, CUTOFF].isnan()
    for r in (~same_cutoff).nonzero()[:, 0].tolist():
        rows.check_cutoff(r, found[r, CUTOFF].item(), f"{context} row {r}")
    for column, name in enumerate(STATS_COLUMNS):
        given = same_cutoff if column in (LSE, TOKEN_LOGPROB, CUTOFF) else slice(None)
        close(name, found[given, column], expected[given, column], context)
    assert not found[:, 7].any(), f"{context}: the last column is 0"


def stop_sides(kind: int, param: list[float], memory: list[float], now, before, slot: int):
    """The two sides of a stop test, from float64 statistics (entropy, top-1, top-2)."""
    (h, top1, top2), (h_before, _, _) = now, before
    return (
        lambda: (slot + 1, param[0]),
        lambda: (top1, param[0]),
        lambda: (math.sqrt(h), param[0]),
        lambda: (math.sqrt(h) - math.sqrt(h_before), param[0]),
        lambda: (top1 - top2, param[0]),
        lambda: (1 - math.sqrt(param[0] * h), memory[0]),
    )[kind]()


def check_stop(args: dict, b: int, slot: int, stats: Tensor, context: str) -> None:
    """Row b stopped on one backend and not on the other after ``slot``: must be a near tie."""
    arm = int(args["arm"][b])
    assert 0 <= arm < len(args["rule_kind"]), f"{context}: stopped without a rule"
    now = stats[b, slot, 1:4].double().tolist()
    before = stats[b, max(slot - 1, 0), 1:4].double().tolist()
    kind, param = int(args["rule_kind"][arm]), args["rule_param"][arm].tolist()
    sides = stop_sides(kind, param, args["memory"][b, arm].tolist(), now, before, slot)
    assert near(*sides), f"{context}: stop decisions differ, sides are {sides}"


def check_sample(args: dict, found: dict, expected: dict) -> int:
    rows = Rows(args["logits"], args, args["rule"])
    u = uniform(args["seed"], 0, torch.zeros_like(args["seed"]), args["rng_round"], RESIDUAL)
    exact(found, expected, ["rng_round", "position"], "sample")
    different = (found["tokens"] != expected["tokens"]).nonzero()[:, 0].tolist()
    for b in different:
        assert args["top_p"] is None, "sample: compare the cutoff with row_stats"
        check_draw(rows.weights(b), int(found["tokens"][b]), u[b].item(), f"sample row {b}")
    return len(different)


def check_draft_step(args: dict, found: dict, expected: dict) -> int:
    """One step from one state; returns how many rows differ in an integer."""
    rows = Rows(args["logits"], args, args["rule"])
    slot = args["length"].long().clamp(max=args["tokens"].shape[1] - 1)
    u = uniform(args["seed"], 0, slot, args["round"], DRAFT)
    every = torch.arange(len(slot))
    drafted = (expected["length"] > args["length"]).nonzero()[:, 0]
    exact(found, expected, ["length", "kept_logits"], "draft_step")
    mine, theirs = found["stats"][every, slot].clone(), expected["stats"][every, slot]
    token, reference = (side["tokens"][every, slot] for side in (found, expected))
    for b in drafted[token[drafted] != reference[drafted]].tolist():
        weights = rows.weights(b, mine[b, CUTOFF].item())
        check_draw(weights, int(token[b]), u[b].item(), f"draft_step row {b}")
        mine[b, TOKEN_LOGPROB] = theirs[b, TOKEN_LOGPROB]
    check_stats(mine[drafted], theirs[drafted], _take(rows, drafted), "draft_step")
    stops = found["stop_reason"] != expected["stop_reason"]
    for b in stops.nonzero()[:, 0].tolist():
        check_stop(args, b, int(slot[b]), expected["stats"], f"draft_step row {b}")
    different = stops | (token != reference)
    exact(found, expected, ["tokens", "active", "next_token"], "draft_step", ~different)
    assert torch.equal(found["next_token"][drafted], token[drafted])
    _check_active(found)
    return int(different.sum())


def _check_active(found: dict) -> None:
    """The flags follow from the reasons, whatever the near ties were."""
    assert torch.equal(found["active"], found["stop_reason"] == 0)
    assert found["num_active"].item() == found["active"].sum()


def _take(rows: Rows, index: Tensor) -> Rows:
    taken = object.__new__(Rows)
    taken.logits = rows.logits[index]
    taken.top_p = None if rows.top_p is None else rows.top_p[index]
    taken.full = type(rows.full)(*(field[index] for field in rows.full))
    taken.rows = type(rows.rows)(*(field[index] for field in rows.rows))
    return taken


def check_proposal_load(args: dict, found: dict, expected: dict) -> int:
    """Statistics of slots both loaded; a length may differ at a near tie of the stop rule."""
    loaded = torch.minimum(found["length"], expected["length"])
    for j in range(args["tokens"].shape[1]):
        b = (loaded > j).nonzero()[:, 0]
        mine, theirs = found["stats"][b, j], expected["stats"][b, j]
        if args["logits"] is None:
            assert torch.equal(mine, theirs)
        elif len(b):
            rows = _take(Rows(args["logits"][:, j], args, 0), b)
            check_stats(mine, theirs, rows, f"proposal_load slot {j}")
        assert torch.equal(found["tokens"][b, j], expected["tokens"][b, j])
    different = (found["length"] != expected["length"]) | (
        found["stop_reason"] != expected["stop_reason"]
    )
    exact(found, expected, ["tokens", "active"], "proposal_load", ~different)
    assert not found["active"].any()
    assert found["num_active"].item() == 0
    for b in different.nonzero()[:, 0].tolist():
        longer = max(found, expected, key=lambda side: int(side["length"][b]))
        check_stop(args, b, int(loaded[b]) - 1, longer["stats"], f"proposal_load row {b}")
    return int(different.sum())


def check_verify(args: dict, found: dict, expected: dict, cutoffs: Tensor) -> int:
    """``cutoffs`` [B, K+1]: what the backend's own row_stats keeps of each target row."""
    names = ("tokens", "num_accepted", "num_emitted", "last_token", "status", "position")
    batch, per, vocab = args["target_logits"].shape
    rows = Rows(args["target_logits"].reshape(-1, vocab), args, args["rule"], repeat=per)
    different = torch.zeros(batch, dtype=torch.bool)
    for name in names:
        different |= (found[name] != expected[name]).view(batch, -1).any(-1)
    for b in range(batch):
        cut = [cutoffs[b, i].item() for i in range(per)]
        for i in range(int(args["length"][b]) + 1):
            rows.check_cutoff(b * per + i, cut[i], f"verify row {b} slot {i}")
    for b in different.nonzero()[:, 0].tolist():
        _check_verify_row(args, found, rows, cutoffs, b)
    same_cutoff = cutoffs.double().eq(rows.rows.cutoff.view(batch, per)) | cutoffs.isnan()
    given = ~different & same_cutoff.all(-1)
    close("accept_prob", found["accept_prob"][given], expected["accept_prob"][given], "verify")
    return int(different.sum())


def _check_verify_row(args: dict, found: dict, rows: Rows, cutoffs: Tensor, b: int) -> None:
    context, per = f"verify row {b}", args["target_logits"].shape[1]
    accepted, length = int(found["num_accepted"][b]), int(args["length"][b])
    seed, round_ = args["seed"][b : b + 1], args["round"][b : b + 1]
    p_draft = draft_prob(args["draft_logits"], args["stats"], args["rule"])[b]
    assert found["status"][b] == 0, f"{context}: status {found['status'][b]}"
    assert 0 <= accepted <= length, f"{context}: {accepted} of {length} accepted"
    emitted = [*args["draft_tokens"][b, :accepted].tolist(), int(found["tokens"][b, accepted])]
    assert found["tokens"][b].tolist() == emitted + [-1] * (per - accepted - 1), context
    assert found["num_emitted"][b] == accepted + 1, context
    assert found["last_token"][b] == emitted[-1], context
    assert found["position"][b] - args["position"][b] == accepted + 1, context
    for i in range(min(accepted + 1, length)):
        weights = rows.weights(b * per + i, cutoffs[b, i].item())
        left = uniform(seed, 0, torch.tensor([i]), round_, ACCEPT).item() * p_draft[i].item()
        right = (weights / weights.sum())[args["draft_tokens"][b, i]].item()
        decided = (left < right) == (i < accepted)
        assert decided or near(left, right), f"{context} slot {i}: sides {left}, {right}"
    weights = rows.weights(b * per + accepted, cutoffs[b, accepted].item())
    weights = weights / weights.sum()
    if accepted < length:
        slot = torch.tensor([accepted])
        one = {name: args[name][b : b + 1] for name in ("stats", "draft_tokens")}
        logits = None if args["draft_logits"] is None else args["draft_logits"][b : b + 1]
        q = draft_distribution(logits, one["stats"], one["draft_tokens"], slot,
                               len(weights), args["rule"])[0]  # fmt: skip
        weights = (weights - q).clamp(min=0)
    u = uniform(seed, 0, torch.tensor([accepted]), round_, RESIDUAL).item()
    check_draw(weights, int(found["tokens"][b, accepted]), u, context)
