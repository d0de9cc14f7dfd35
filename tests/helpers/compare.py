"""Contract 7: where two backends may differ, and nowhere else.

Integers must be equal unless the reference itself says that the decision was a near tie; floats
are compared by the tolerance table, given the same cutoff, token and length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tapout_kernels.reference.accept import GREEDY, GUMBEL
from tapout_kernels.reference.gumbel import gumbel_noise
from tapout_kernels.reference.rng import DRAFT, RESIDUAL, uniform
from tapout_kernels.reference.rows import StateRows
from tapout_kernels.reference.stats import Sampling, process
from tapout_kernels.reference.stop import SMALLEST_ESTIMATE
from tapout_kernels.reference.vocab import allowed_ids, target_ids
from tapout_kernels.testing import NEAR, STATS_COLUMNS, TOLERANCES

TOP1_PROB, TOKEN_LOGPROB, LSE, CUTOFF, ESTIMATE = 2, 4, 0, 5, 7


def close(name: str, found: Tensor, expected: Tensor, context: str) -> None:
    atol, rtol = TOLERANCES[name]
    torch.testing.assert_close(
        found, expected, atol=atol, rtol=rtol, equal_nan=True,
        msg=lambda m: f"{context} {name}: {m}",
    )  # fmt: skip


def close_in(name: str, found: Tensor, expected: Tensor, context: str) -> None:
    """``close`` for what is stored in a dtype of logits: a near tie rounds to either side."""
    atol, rtol = TOLERANCES[name]
    if found.dtype != torch.float32:
        rtol += torch.finfo(found.dtype).eps
    torch.testing.assert_close(
        found, expected, atol=atol, rtol=rtol, equal_nan=True,
        msg=lambda m: f"{context} {name}: {m}",
    )  # fmt: skip


def check_attention(args: dict, found: Tensor, expected: Tensor, backend: str, name: str) -> None:
    """Triton's weights, which sum to 1, take part in 16 bits where the values have 16: each is off
    by half an eps at most, so what they mix by that of the largest value."""
    if backend != "triton" or found.dtype == torch.float32:
        close_in("attention", found, expected, name)
        return
    rounding = torch.finfo(found.dtype).eps / 2 * args["values"].nan_to_num().abs().max().item()
    atol, rtol = TOLERANCES["attention"]
    torch.testing.assert_close(
        found, expected, atol=atol + rounding, rtol=rtol + torch.finfo(found.dtype).eps,
        msg=lambda m: f"{name}: {m}",
    )  # fmt: skip


def near(left: float, right: float) -> bool:
    return abs(left - right) <= NEAR * max(abs(left), abs(right))


def exact(found: dict, expected: dict, names: list[str], context: str, rows=slice(None)) -> None:
    for name in names:
        assert torch.equal(found[name][rows], expected[name][rows]), f"{context}: {name} differs"


class Batch(NamedTuple):
    """Per-request state as batch rows."""

    sampling: Sampling
    state: StateRows

    def of(self, tensor: Tensor) -> Tensor:
        return self.state.of(tensor)


def batch_of(args: dict, batch: int) -> Batch:
    sampling = Sampling(*(args[name] for name in Sampling._fields))
    given = [x for x in (*sampling, args.get("seed"), args.get("arm")) if x is not None]
    count = len(given[0]) if given else batch
    rows = args.get("rows") if given else None
    state = StateRows(rows, count, torch.device("cpu"))
    return Batch(sampling.map(state.of), state)


class Rows:
    """Rows of logits with their columns, in float64: what a decision about one of them may be."""

    def __init__(
        self, logits: Tensor, sampling: Sampling, allowed: Tensor | None = None, rule: int = 0
    ):
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        self.logits, self.sampling = logits.double(), sampling
        unfiltered = sampling._replace(top_p=None, min_p=None)
        self.top_k = process(logits, unfiltered, None, rule == GREEDY)  # before top-p and min-p
        self.rows = process(logits, sampling, None, rule == GREEDY)

    def take(self, index: Tensor) -> Rows:
        taken = object.__new__(Rows)
        taken.logits, taken.sampling = self.logits[index], self.sampling.map(lambda x: x[index])
        taken.top_k = type(self.top_k)(*(field[index] for field in self.top_k))
        taken.rows = type(self.rows)(*(field[index] for field in self.rows))
        return taken

    def weights(self, r: int, cutoff: float | None = None) -> Tensor:
        """[V] weights of row r under a cutoff that has been allowed."""
        if cutoff is None or self.rows.temperature[r] == 0:
            return self.rows.weights[r]
        return torch.where(self.logits[r] >= cutoff, self.top_k.weights[r], 0.0)

    def check_cutoff(self, r: int, cutoff: float, context: str) -> None:
        """A different cutoff is a logit of the row whose mass or ratio is near the limit."""
        mine = self.rows.cutoff[r].item()
        if cutoff == mine or self.rows.status[r] != 0:
            return
        z, weights = self.logits[r], self.top_k.weights[r]
        assert (z == cutoff).any(), f"{context}: cutoff {cutoff} is not a logit"
        low, high = sorted((cutoff, mine))
        # Every logit between the two cutoffs was in doubt.
        between = (z > low) & (z <= high) if cutoff > mine else (z >= low) & (z < high)
        doubtful = False
        if self.sampling.top_p is not None:
            mass = weights[z >= high].sum() if cutoff < mine else weights[z > low].sum()
            doubtful |= abs(mass / weights.sum() - self.sampling.top_p[r]).item() <= NEAR
        if self.sampling.min_p is not None:
            ratio = weights[between | (z == cutoff)] - self.sampling.min_p[r]
            doubtful |= (ratio.abs() <= NEAR).any().item()
        assert doubtful, f"{context}: cutoff {cutoff}, expected {mine}"


class Noise(NamedTuple):
    """The noise of one draw a row: a uniform, or Gumbel noise of every id."""

    uniform: Tensor | None  # [R]
    gumbel: Tensor | None  # [R, V]


def check_draw(rows: Rows, r: int, token: int, noise: Noise, context: str, cutoff=None) -> None:
    """The id may be what the row's noise draws, up to a near tie."""
    assert 0 <= token < rows.logits.shape[-1], f"{context}: id {token} is outside the vocabulary"
    weights = rows.weights(r, cutoff)
    if rows.rows.temperature[r] == 0:
        assert weights[token] > 0, f"{context}: id {token} is not the argmax"
        return
    if noise.gumbel is None:
        check_inverse_cdf(weights, token, noise.uniform[r].item(), context)
        return
    z = rows.logits[r] / rows.rows.temperature[r]
    score = torch.where(weights > 0, z + noise.gumbel[r], -torch.inf)
    best = score.argmax()
    slack = NEAR * max(1.0, z[best].abs().item(), z[token].abs().item())
    assert score[best] - score[token] <= slack, f"{context}: id {token}, the best is {best}"


def check_inverse_cdf(weights: Tensor, token: int, u: float, context: str) -> None:
    """CDF64(id - 1) - NEAR <= u <= CDF64(id) + NEAR, and the id has mass."""
    cdf = weights.cumsum(0) / weights.sum()
    below = cdf[token - 1].item() if token else 0.0
    inside = below - NEAR <= u <= cdf[token].item() + NEAR
    assert weights[token] > 0, f"{context}: id {token} has no mass"
    assert inside, f"{context}: id {token} for u = {u}, its CDF is [{below}, {cdf[token].item()}]"


def check_row_stats(args: dict, found: dict, expected: dict, context: str) -> int:
    ids = target_ids(None, args["logits"].shape[-1], args["logits"].device)
    allowed = allowed_ids(args["token_mask"], ids)
    rows = Rows(args["logits"], batch_of(args, len(args["logits"])).sampling, allowed)
    check_stats(found["stats"], expected["stats"], rows, context)
    return 0


def check_stats(found: Tensor, expected: Tensor, rows: Rows, context: str) -> None:
    """[R, 8] statistics given the same cutoff and token."""
    same_cutoff = found[:, CUTOFF].eq(expected[:, CUTOFF]) | expected[:, CUTOFF].isnan()
    for r in (~same_cutoff).nonzero()[:, 0].tolist():
        rows.check_cutoff(r, found[r, CUTOFF].item(), f"{context} row {r}")
    for column, name in enumerate(STATS_COLUMNS):
        given = same_cutoff if column in (LSE, TOKEN_LOGPROB, CUTOFF) else slice(None)
        close(name, found[given, column], expected[given, column], context)
    assert torch.equal(found[:, ESTIMATE], expected[:, ESTIMATE]), f"{context}: estimate"


def stop_sides(kind: int, param: list[float], memory: list[float], stats: Tensor, slot: int):
    """The two sides of a stop test; ``stats`` [K, 8] float64."""
    h, top1, top2 = stats[slot, 1:4].tolist()
    h_before = stats[max(slot - 1, 0), 1].item()
    estimate = torch.where(stats[:, ESTIMATE] != 0, stats[:, ESTIMATE], stats[:, TOP1_PROB])

    def length() -> tuple[float, float]:
        return slot + 1, memory[0]

    return (
        lambda: (slot + 1, param[0]),
        lambda: (top1, param[0]),
        lambda: (math.sqrt(h), param[0]),
        lambda: (math.sqrt(h) - math.sqrt(h_before), param[0]),
        lambda: (top1 - top2, param[0]),
        lambda: (1 - math.sqrt(param[0] * h), memory[0]),
        lambda: (estimate[: slot + 1].prod().item(), param[0]),
        length,
        lambda: (top1, param[3]),
        length,
        lambda: (memory[1], 0),
        lambda: (h, (memory[1] + memory[3]) / 2),
        length,
        length,
    )[kind]()


def check_stop(args: dict, b: int, slot: int, stats: Tensor, context: str) -> None:
    """Row b stopped on one backend and not on the other after ``slot``: must be a near tie."""
    row = b if args["rows"] is None else int(args["rows"][b])
    arm = args["arm"][row]
    arm = int(arm if arm.dim() == 0 else arm[slot])
    assert 0 <= arm < len(args["rule_kind"]), f"{context}: stopped without a rule"
    kind, param = int(args["rule_kind"][arm]), args["rule_param"][arm].tolist()
    sides = stop_sides(kind, param, args["memory"][row, arm].tolist(), stats[b].double(), slot)
    assert near(*sides), f"{context}: stop decisions differ, sides are {sides}"


def check_sample(args: dict, found: dict, expected: dict, cutoffs: Tensor) -> int:
    """``cutoffs`` [B]: what the backend's own row_stats keeps."""
    batch = batch_of(args, len(args["logits"]))
    ids = target_ids(None, args["logits"].shape[-1], args["logits"].device)
    rows = Rows(args["logits"], batch.sampling, allowed_ids(args["token_mask"], ids), args["rule"])
    exact(found, expected, ["rng_round", "position"], "sample")
    seed, round_ = batch.of(args["seed"]), batch.of(args["rng_round"])
    noise = Noise(uniform(seed, 0, torch.zeros_like(seed), round_, RESIDUAL), None)
    if args["rule"] == GUMBEL:
        noise = Noise(noise.uniform, gumbel_noise(seed, batch.of(args["position"]), ids))
    different = (found["tokens"] != expected["tokens"]).nonzero()[:, 0].tolist()
    for b in different:
        rows.check_cutoff(b, cutoffs[b].item(), f"sample row {b}")
        token = int(found["tokens"][b])
        check_draw(rows, b, token, noise, f"sample row {b}", cutoffs[b].item())
    return len(different)


def check_draft_step(args: dict, found: dict, expected: dict) -> int:
    """One step from one state; returns how many rows differ in an integer."""
    batch = batch_of(args, len(args["logits"]))
    ids = target_ids(args["d2t"], args["logits"].shape[-1], args["logits"].device)
    rows = Rows(args["logits"], batch.sampling, allowed_ids(args["token_mask"], ids), args["rule"])
    slot = args["length"].long().clamp(max=args["tokens"].shape[1] - 1)
    every = torch.arange(len(slot))
    drafted = (expected["length"] > args["length"]).nonzero()[:, 0]
    exact(found, expected, ["length", "kept_logits"], "draft_step")
    mine, theirs = found["stats"][every, slot].clone(), expected["stats"][every, slot]
    token, reference = (side["tokens"][every, slot] for side in (found, expected))
    noise = _draft_noise(args, batch, slot, ids)
    for b in drafted[token[drafted] != reference[drafted]].tolist():
        draft_id = (ids == token[b]).nonzero()[:, 0]
        assert len(draft_id) == 1, f"draft_step row {b}: {token[b]} is no id of the draft"
        check_draw(rows, b, draft_id.item(), noise, f"draft_step row {b}", mine[b, CUTOFF].item())
        mine[b, TOKEN_LOGPROB] = theirs[b, TOKEN_LOGPROB]
    check_stats(mine[drafted], theirs[drafted], rows.take(drafted), "draft_step")
    _check_estimate(args, mine[drafted], drafted)
    stops = found["stop_reason"] != expected["stop_reason"]
    for b in stops.nonzero()[:, 0].tolist():
        check_stop(args, b, int(slot[b]), expected["stats"], f"draft_step row {b}")
    different = stops | (token != reference)
    exact(found, expected, ["tokens", "active", "next_token"], "draft_step", ~different)
    assert torch.equal(found["next_token"][drafted], token[drafted])
    assert found["num_active"].item() == found["active"].sum()
    return int(different.sum())


def _draft_noise(args: dict, batch: Batch, slot: Tensor, ids: Tensor) -> Noise:
    seed = batch.of(args["seed"])
    if args["rule"] == GUMBEL:
        return Noise(None, gumbel_noise(seed, batch.of(args["position"]) + slot, ids))
    return Noise(uniform(seed, 0, slot, args["round"], DRAFT), None)


def _check_estimate(args: dict, stats: Tensor, drafted: Tensor) -> None:
    given = args["accept_estimate"]
    if given is None:
        assert not stats[:, ESTIMATE].any()
    else:
        wanted = torch.where(given > 0, given, SMALLEST_ESTIMATE)[drafted]
        assert torch.equal(stats[:, ESTIMATE], wanted)


def check_proposal_load(args: dict, found: dict, expected: dict) -> int:
    """Statistics of slots both loaded; a length may differ at a near tie of the stop rule."""
    loaded = torch.minimum(found["length"], expected["length"])
    batch = batch_of(args, len(loaded))
    for j in range(args["tokens"].shape[1]):
        b = (loaded > j).nonzero()[:, 0]
        mine, theirs = found["stats"][b, j], expected["stats"][b, j]
        if args["logits"] is None:
            assert torch.equal(mine, theirs)
        elif len(b):
            logits = expected["logits"][:, j]  # masked
            rows = Rows(logits, batch.sampling).take(b)
            check_stats(mine, theirs, rows, f"proposal_load slot {j}")
        assert torch.equal(found["tokens"][b, j], expected["tokens"][b, j])
    different = (found["length"] != expected["length"]) | (
        found["stop_reason"] != expected["stop_reason"]
    )
    names = ["tokens", "active"] + ([] if args["logits"] is None else ["logits"])
    exact(found, expected, names, "proposal_load", ~different)
    assert not found["active"].any()
    assert found["num_active"].item() == 0
    for b in different.nonzero()[:, 0].tolist():
        longer = max(found, expected, key=lambda side: int(side["length"][b]))
        check_stop(args, b, int(loaded[b]) - 1, longer["stats"], f"proposal_load row {b}")
    return int(different.sum())
