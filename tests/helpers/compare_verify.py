"""Contract 7 for ``verify``: a row whose integers differ must be explained by a near tie."""

from __future__ import annotations

import torch
from torch import Tensor

from tapout_kernels.reference.accept import (
    BLOCK,
    GUMBEL,
    LOSSY_ADASD,
    LOSSY_EARS,
    LOSSY_FLY,
    LOSSY_RULES,
    block_weights,
    residual,
)
from tapout_kernels.reference.draft import draft_distribution
from tapout_kernels.reference.gumbel import gumbel_noise
from tapout_kernels.reference.stats import Sampling
from tapout_kernels.reference.verify import Given, given
from tapout_kernels.testing import TOLERANCES

from . import compare_lossy
from .compare import Noise, Rows, check_draw, check_inverse_cdf, close, near

INTEGERS = ("tokens", "num_accepted", "num_emitted", "last_token", "status")
READS = (
    "target_logits", "row_start", "token_mask", "seed", "rows", "draft_tokens", "length", "live",
    "round", "draft_logits", "logits_row", "t2d", "stats", "rule", "position",
)  # fmt: skip


class Verification:
    """What the reference computed of every row, and which outcomes it allows."""

    def __init__(self, args: dict, cutoffs: Tensor):
        """``cutoffs`` [B, K+1]: what the backend's own row_stats keeps of each target row."""
        sampling = Sampling(*(args[name] for name in Sampling._fields))
        self.given: Given = given(sampling=sampling, **{name: args[name] for name in READS})
        g = self.given
        self.args, self.rule, self.cutoffs = args, args["rule"], cutoffs
        self.batch, self.per, self.vocab = g.target.logits.shape
        each = sampling.map(g.state.of).map(lambda x: x.repeat_interleave(self.per))
        masked = torch.where(
            g.target.status.view(-1, 1) == 0, g.target.processed.logits, -torch.inf
        )  # processed rows carry the mask
        self.rows = Rows(masked, each, rule=self.rule)
        self.slots = torch.arange(self.per - 1)

    def p_target(self, b: int, slot: int) -> Tensor:
        weights = self.rows.weights(b * self.per + slot, self.cutoffs[b, slot].item())
        return weights / weights.sum()

    def argmax(self, b: int, slot: int) -> int:
        return int(self.rows.logits[b * self.per + slot].argmax())

    def p_draft(self, b: int) -> Tensor:  # [K, V]
        one = self.given.draft
        one = one._replace(
            tokens=one.tokens[b : b + 1], stats=one.stats[b : b + 1], known=one.known[b : b + 1],
            logits=None if one.logits is None else one.logits[b : b + 1],
        )  # fmt: skip
        return draft_distribution(one, self.slots[None])[0]

    def same_cutoffs(self) -> Tensor:  # [B]
        mine = self.rows.rows.cutoff.view(self.batch, self.per)
        used = torch.arange(self.per) <= self.given.end[:, None]
        return (self.cutoffs.double().eq(mine) | ~used | (self.given.target.status != 0)).all(-1)

    def check_cutoffs(self) -> None:
        for b in (~self.same_cutoffs()).nonzero()[:, 0].tolist():
            for i in range(int(self.given.end[b]) + 1):
                if self.given.target.status[b, i] == 0:
                    cut = self.cutoffs[b, i].item()
                    self.rows.check_cutoff(b * self.per + i, cut, f"verify row {b} slot {i}")

    def check_row(self, found: dict, b: int) -> None:
        """Row b's outcome follows from the noise up to near ties."""
        context = f"verify row {b}"
        assert self.given.live[b], f"{context}: not live"
        accepted, end = int(found["num_accepted"][b]), int(self.given.end[b])
        assert 0 <= accepted <= end, f"{context}: {accepted} accepted, {end} possible"
        status = int(self.given.end_status[b])
        rejected = accepted < end
        emits = rejected or status in (0, 3)
        assert found["num_emitted"][b] == accepted + emits, context
        wanted_status = status if self.rule == BLOCK or not rejected else 0
        assert found["status"][b] == wanted_status, context
        tokens = found["tokens"][b].tolist()
        drafted = self.args["draft_tokens"][b, :accepted].tolist()
        assert tokens[:accepted] == drafted, context
        assert tokens[accepted + emits :] == [-1] * (self.per - accepted - emits), context
        assert found["last_token"][b] == (tokens[accepted + emits - 1] if accepted + emits else 0)
        if self.rule == GUMBEL:
            self._check_gumbel(tokens[: accepted + emits], b, context)
            return
        if self.rule in LOSSY_RULES.values():
            compare_lossy.check_levels(self, accepted, end, b, context)
            if emits and self.rule in (LOSSY_FLY, LOSSY_ADASD):
                assert tokens[accepted] == self.argmax(b, accepted), context
            elif emits:
                left = rejected and self.rule == LOSSY_EARS
                self._check_last(tokens[accepted], accepted, left, 1.0, b, context)
            return
        scale = self._check_levels(accepted, end, b, context)
        if emits:
            self._check_last(tokens[accepted], accepted, rejected, scale, b, context)

    def _check_gumbel(self, tokens: list[int], b: int, context: str) -> None:
        noise = self.given.noise
        position = noise.position[b] + torch.arange(self.per)
        gumbel = gumbel_noise(noise.seed[b].expand(self.per), position, torch.arange(self.vocab))
        mine = self.rows.take(torch.arange(b * self.per, (b + 1) * self.per))
        for i, token in enumerate(tokens):
            cut = self.cutoffs[b, i].item()
            check_draw(mine, i, token, Noise(None, gumbel), context, cut)

    def _check_levels(self, accepted: int, end: int, b: int, context: str) -> float:
        """The acceptance decisions; returns the scale of p_target in the residual."""
        u = self.given.noise.accept(self.per - 1)[b]
        tokens, p_draft = self.args["draft_tokens"][b], self.given.p_draft_x[b]
        ratio = torch.stack([self.p_target(b, i)[tokens[i]] / p_draft[i] for i in range(end)])
        if self.rule != BLOCK:
            for i in range(min(accepted + 1, end)):
                decided = (u[i] < ratio[i]) == (i < accepted)
                assert decided or near(u[i].item(), ratio[i].item()), f"{context} slot {i}"
            return 1.0
        weights, full = block_weights(ratio[None])[0], self.p_draft(b)
        for level in range(max(accepted, 1), end + 1):
            w = weights[level].item()
            left, right = u[level - 1].item(), w
            if level < end:
                s = residual(w * self.p_target(b, level), full[level]).sum().item()
                left, right = left * (s + 1 - w), s
            decided = (left < right) == (level == accepted)
            assert decided or near(left, right), f"{context} level {level}: {left}, {right}"
        return weights[accepted].item()

    def _check_last(self, token, slot, rejected, scale, b, context) -> None:
        assert 0 <= token < self.vocab, f"{context}: id {token} is outside the vocabulary"
        weights = self.p_target(b, slot)
        if rejected:
            left = residual(scale * weights, self.p_draft(b)[slot])
            weights = left if left.sum() > 0 else weights
        noise = self.given.noise
        one = noise._replace(seed=noise.seed[b : b + 1], round=noise.round[b : b + 1])
        u = one.residual(torch.tensor([slot])).item()
        check_inverse_cdf(weights, token, u, context)


def plainly_equal(found: dict, expected: dict) -> bool:
    """Every integer, and every float within its tolerance: nothing to explain."""
    for name, value in expected.items():
        atol, rtol = TOLERANCES[name] if value.is_floating_point() else (0.0, 0.0)
        if not torch.allclose(found[name], value, atol=atol, rtol=rtol, equal_nan=True):
            return False
    return True


def check_verify(args: dict, found: dict, expected: dict, cutoffs: Tensor) -> int:
    """Returns how many rows differ in an integer, all of them allowed to."""
    verification = Verification(args, cutoffs)
    verification.check_cutoffs()
    batch = len(args["draft_tokens"])
    different = torch.zeros(batch, dtype=torch.bool)
    for name in INTEGERS:
        different |= (found[name] != expected[name]).view(batch, -1).any(-1)
    for b in different.nonzero()[:, 0].tolist():
        verification.check_row(found, b)
    moved = verification.given.state.of(found["position"] - args["position"])
    live = verification.given.live
    assert torch.equal(moved[live], found["num_emitted"].long()[live])
    total = (found["position"] - args["position"]).sum()
    assert total == found["num_emitted"].sum(), "positions of other rows moved"
    given_rows = ~different & verification.same_cutoffs()
    prob = "ears_prob" if args["rule"] == LOSSY_EARS else "accept_prob"
    for name in ("accept_prob", "overlap", "logprobs"):
        if args[name] is not None:
            tolerance = prob if name == "accept_prob" else name
            close(tolerance, found[name][given_rows], expected[name][given_rows], "verify")
    if args["lossy_memory"] is not None:
        mine, theirs = (verification.given.state.of(x["lossy_memory"]) for x in (found, expected))
        close("lossy_memory", mine[given_rows], theirs[given_rows], "verify")
    return int(different.sum())
