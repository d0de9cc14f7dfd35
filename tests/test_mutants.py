"""Deliberately wrong references: each must be caught by a named test, or the tests are blind.

A mutant is a copy of the reference with one line replaced (helpers/mutants.py); if that line is no
longer in the source the test fails, so the list cannot rot.  A check is the heart of the test it
is named after, on less data, and the shipped reference passes it.
"""

from __future__ import annotations

import pytest
from helpers import lossy_mutants, stop_mutants
from helpers.checks import CHECKS
from helpers.mutants import Edit, Reference

MUTANTS: dict[str, tuple[str, tuple[Edit, ...]]] = {
    # ---- noise
    "shared noise domain": ("joint law", (
        Edit("decide.py", "self.round[:, None], ACCEPT)", "self.round[:, None], 0)"),
    )),
    "address without round": ("joint law", (
        Edit("rng.py", "        round & MASK32,", "        round & 0,"),
    )),
    "keys not mixed between requests of one bandit": ("two prompts", (
        Edit("rng.py", "z = (seed + (ordinal + 1) * _GOLDEN64) & mask", "z = seed & mask"),
    )),
    "a uniform that can be 0, with <=": ("zero coin", (
        Edit("rng.py", "(bits.double() + 0.5)", "bits.double()"),
        Edit("accept.py", "u * p_draft < p_target", "u * p_draft <= p_target"),
    )),
    # ---- filters, masks and chunks of a row
    "last vocabulary chunk skipped": ("token, full", (
        Edit("sampling.py", "    return padded.view(rows, -1, CHUNK)",
             "    return padded.view(rows, -1, CHUNK)[:, :-1]"),
    )),
    "top-k cutoff off by one": ("token, full", (
        Edit("stats.py", "(k < z.shape[-1]), kept - 1, last)",
             "(k < z.shape[-1]), (kept - 2).clamp(min=0), last)"),
    )),
    "top-p cutoff off by one": ("token, full", (
        Edit("stats.py", "torch.minimum(reached.sum(-1, keepdim=True), last)",
             "torch.minimum(reached.sum(-1, keepdim=True) + 1, last)"),
    )),
    "min-p cutoff off by one": ("token, full", (
        Edit("stats.py", "torch.minimum(kept - 1, last)", "torch.minimum(kept, last)"),
    )),
    "bonus row without its mask": ("token, masks", (
        Edit("target.py", "target_ids(None, vocab, logits.device))\n",
             "target_ids(None, vocab, logits.device))\n    allowed[:, -1] = True\n"),
    )),
    "masked ids kept in the draft's logits": ("token, masks", (
        Edit("draft_step.py", "raw = logits if allowed is None", "raw = logits if True"),
    )),
    "ragged row off by one": ("token, ragged", (
        Edit("target.py", "index = row_start[:-1, None] + torch",
             "index = row_start[:-1, None] - 1 + torch"),
    )),
    # ---- the draft's distribution
    "residual subtracts only the drafted token": ("token, full", (
        Edit("draft.py", "point, over_target(full_distribution(draft, slot), draft))",
             "point, over_target(full_distribution(draft, slot), draft) * point)"),
    )),
    "q taken before top-k": ("token, full", (
        Edit("stats.py", "offset - total_weight(rows.weights).log()",
             "offset - total_weight(_weights(rows.logits, t)).log()"),
    )),
    "q spread over what top-k cut": ("token, full", (
        Edit("draft.py", "kept = (z >= stats[..., CUTOFF, None]) & ~z.isneginf()",
             "kept = ~z.isneginf()"),
    )),
    "the draft's own probability forgotten": ("token, full", (
        Edit("draft.py", "(draft.ids >= 0), drawn, 0.0)", "(draft.ids >= 0), 1.0, 0.0)"),
    )),
    "temperature of the draft ignored in the residual": ("token, full", (
        Edit("draft.py", "(z - z_token) / t", "(z - z_token)"),
    )),
    "draft vocabulary: residual ignoring t2d": ("token, vocabulary", (
        Edit("draft.py", "    return torch.where(ids >= 0, probs[..., ids.clamp(min=0)], 0.0)",
             "    return torch.nn.functional.pad(probs, (0, draft.vocab - probs.shape[-1]))"),
    )),
    "token: an id the target has not ends the draft before it": ("token, foreign ids", (
        Edit("draft.py", "return ~draft.inside & (draft.ids >= 0)",
             "return torch.zeros_like(draft.inside)"),
    )),
    "block: an id the target has not ends the draft before it": ("block, foreign ids", (
        Edit("draft.py", "return ~draft.inside & (draft.ids >= 0)",
             "return torch.zeros_like(draft.inside)"),
    )),
    # ---- acceptance, residual, bonus
    "residual without its clamp": ("token, full", (
        Edit("accept.py", "(p_target - p_draft).clamp(min=0)", "(p_target - p_draft).abs()"),
    )),
    "one-hot residual keeps the drafted token": ("token, one-hot", (
        Edit("draft.py", "    if draft.logits is None:\n        return point",
             "    if draft.logits is None:\n        return point * 0"),
    )),
    "bonus from the row before": ("token, full", (
        Edit("decide.py", "p_target = target.p_target[rows, decision.accepted]",
             "p_target = target.p_target[rows, (at[:, 0] - 1 + rejected.long()).clamp(0)]"),
    )),
    "unproposed slot counted as rejected": ("unproposed slots", (
        Edit("verify.py", "rejected = decision.accepted < g.end",
             "rejected = decision.accepted < draft_tokens.shape[1]"),
    )),
    "block scan that stops at the first failure": ("block, full", (
        Edit("accept.py", "return torch.where(accepted, level, 0).amax(-1)",
             "return leading(accepted)"),
    )),
    "block residual without w": ("block, full", (
        Edit("decide.py", "residual(decision.scale[:, None] * p_target, p_draft)",
             "residual(p_target, p_draft)"),
    )),
    "block weights not clamped at 1": ("block, full", (
        Edit("accept.py", "ratio[:, i]).clamp(max=1.0))", "ratio[:, i]))"),
    )),
    "block judges the last level like the others": ("block, full", (
        Edit("accept.py", "torch.where(level == length[:, None], u < w, inner)", "inner"),
    )),
    # ---- gumbel
    "gumbel noise indexed by draft id instead of target id": ("gumbel accepts itself", (
        Edit("draft_step.py", "state.of(position) + slot, ids)",
             "state.of(position) + slot, torch.arange(len(ids)))"),
    )),
    "gumbel noise by slot instead of position": ("gumbel identity", (
        Edit("decide.py", "position = noise.position", "position = 0 * noise.position"),
    )),
    "gumbel draft noise by slot instead of position": ("gumbel accepts itself", (
        Edit("draft_step.py", "state.of(position) + slot, ids)", "slot, ids)"),
    )),
    # ---- stop rules: lossless whatever they do, so what they do is asked
    "survival that ignores the estimate": ("survival estimate", (
        Edit("stop.py", "torch.where(estimate != 0, estimate, s.table[..., TOP1_PROB])",
             "s.table[..., TOP1_PROB]"),
    )),
    **stop_mutants.REFERENCE,
    **lossy_mutants.REFERENCE,
    # ---- trees
    "siblings tested independently": ("trees", (
        Edit("tree_verify.py", "p_target = rejected_target(row.p_target, drawn)",
             "p_target = row.p_target"),
    )),
    "drafted mass not removed after a rejection": ("trees", (
        Edit("tree.py", "_normalised(p_draft.scatter(-1, ids[:, None], 0.0))", "p_draft"),
    )),
    "what a rejection leaves of the draft not renormalised": ("trees", (
        Edit("tree.py", "_normalised(p_draft.scatter(-1, ids[:, None], 0.0))",
             "p_draft.scatter(-1, ids[:, None], 0.0)"),
    )),
    "residual of a tree not renormalised": ("trees", (
        Edit("tree.py", "_normalised(residual(p_target, p_draft))",
             "residual(p_target, p_draft)"),
    )),
    "residual of the last child alone": ("trees", (
        Edit("tree_verify.py", "p_target = rejected_target(row.p_target, drawn)",
             "p_target = rejected_target(row.target.probs, drawn)"),
    )),
    "a sibling stays in a one-hot residual": ("trees, one-hot", (
        Edit("tree_verify.py", "torch.where(refused[:, None], p_target, row.p_target)",
             "row.p_target"),
    )),
    "siblings of traversed trees tested independently": ("leaves first", (
        Edit("tree_traverse.py", "torch.where(moving[:, None], rest, measure)", "measure"),
    )),
    "what is left of a traversed row not divided by the chance": ("leaves first, deep", (
        Edit("tree_traverse.py", "chance = mass + (1 - weight)", "chance = mass + 1 - 0 * weight"),
    )),
    "children of a traversed node reached from the root's weight": ("leaves first, deep", (
        Edit("tree_traverse.py", "measure = weight[:, None] * row.p_target",
             "measure = row.p_target"),
    )),
    "token-level arm of slot 0 used everywhere": ("arm of every slot", (
        Edit("stop.py", "arm = arm.gather(-1, slot.clamp(max=arm.shape[-1] - 1)[:, None])[:, 0]",
             "arm = arm[:, 0]"),
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name):
    check, edits = MUTANTS[name]
    killer = CHECKS[check]
    assert not killer.passes(Reference(*edits)), f"{killer.test} is blind to {name}"
    print(f"killed: {name} (by {killer.test})")


@pytest.mark.parametrize("check", CHECKS)
def test_the_shipped_reference_survives(check):
    """A check that fails everything would kill every mutant too."""
    assert CHECKS[check].passes(Reference())


def test_every_check_kills():
    assert {check for check, _ in MUTANTS.values()} == set(CHECKS)


def test_a_mutant_whose_line_is_gone_is_refused():
    with pytest.raises(AssertionError, match="once, found it 0 times"):
        Reference(Edit("accept.py", "a line that is not there", ""))
