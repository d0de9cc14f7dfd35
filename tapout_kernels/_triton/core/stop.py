"""Stop rules: from draft-side statistics, decide whether to go on drafting after slot j.

    fixed_length     j + 1 >= n          svip             sqrt(H_j) > h            (2411.18462)
    max_confidence   top1_prob < h       svip_difference  sqrt(H_j) - sqrt(H_{j-1}) > h, j > 0
    logit_margin     top1 - top2 < h     adaedl           1 - sqrt(gamma H) < lambda  (2410.18351)
    survival         prod_{i<=j} e_i < h (SpecDec++, 2405.19715), e = the acceptance estimate given
                     for the slot, else top1_prob

The statistics decide as they are stored; h, n, gamma = parameter 0 of the arm.  After a round with
drafts, adaedl's memory (lambda, AR) follows the Draft & Verify code: AR <- AR/2 + n_acc/n_draft/2;
lambda' = lambda + .01 if AR < .9, else lambda - .01 unless every slot was drafted;
lambda <- .9 lambda + .1 lambda'.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .stats import ACCEPT_ESTIMATE, ENTROPY, NUM_STATS, TOP1_PROB, TOP2_PROB

NONE = tl.constexpr(0)  # stop reasons
RULE = tl.constexpr(1)
MAX_LENGTH = tl.constexpr(2)
PRE_DRAFT = tl.constexpr(3)
NOT_LIVE = tl.constexpr(4)
BAD_LOGITS = tl.constexpr(5)
FIXED_LENGTH = tl.constexpr(0)  # kinds
MAX_CONFIDENCE = tl.constexpr(1)
SVIP = tl.constexpr(2)
SVIP_DIFFERENCE = tl.constexpr(3)
LOGIT_MARGIN = tl.constexpr(4)
ADAEDL = tl.constexpr(5)
SURVIVAL = tl.constexpr(6)
RULE_PARAMS = tl.constexpr(4)  # columns of rule_param [A, 4] and memory [R, A, 4]
SMALLEST_ESTIMATE = tl.constexpr(2.0**-126)


@triton.jit
def slot_arm(rules, arms, arm_slots, row, slot, known):
    """The arm of one slot, or -1 where no rule applies; ``known``: rows of state to look at."""
    arm = row * 0 - 1
    if rules.kind is not None:
        column = tl.minimum(slot, arm_slots - 1)
        arm = tl.load(rules.arm + row * arm_slots + column, mask=known, other=-1).to(tl.int64)
    return tl.where((arm >= 0) & (arm < arms), arm, -1)


@triton.jit
def stats_at(stats, slot, column):
    """float64 of one stored statistic of ``stats`` [K, 8]."""
    return tl.load(stats + slot * NUM_STATS + column).to(tl.float64)


@triton.jit
def root_entropy(stats, slot):
    return tl.sqrt(tl.maximum(stats_at(stats, slot, ENTROPY), 0.0))


@triton.jit
def survival(stats, slot):
    """How likely slots 0..slot are all accepted."""
    product = tl.full([], 1.0, tl.float64)
    for i in range(slot + 1):
        estimate = stats_at(stats, slot - i, ACCEPT_ESTIMATE)
        top1 = stats_at(stats, slot - i, TOP1_PROB)
        product *= tl.where(estimate != 0.0, estimate, top1)
    return product


@triton.jit
def stored_estimate(estimate):
    """As statistics keep it: 0 means that none was given."""
    return tl.where(estimate > 0.0, estimate, SMALLEST_ESTIMATE)


@triton.jit
def stops_after(rules, arms, arm_slots, row, slot, stats):
    """``stats`` [K, 8] of the draft, written up to ``slot``."""
    stops = slot < 0
    arm = slot_arm(rules, arms, arm_slots, row, slot, slot >= 0)
    if rules.kind is not None:
        if arm >= 0:
            kind = tl.load(rules.kind + arm)
            limit = tl.load(rules.param + arm * RULE_PARAMS).to(tl.float64)
            if kind == FIXED_LENGTH:
                stops = (slot + 1).to(tl.float64) >= limit
            elif kind == MAX_CONFIDENCE:
                stops = stats_at(stats, slot, TOP1_PROB) < limit
            elif kind == SVIP:
                stops = root_entropy(stats, slot) > limit
            elif kind == SVIP_DIFFERENCE:
                before = root_entropy(stats, tl.maximum(slot - 1, 0))
                stops = (slot > 0) & (root_entropy(stats, slot) - before > limit)
            elif kind == LOGIT_MARGIN:
                top1, top2 = stats_at(stats, slot, TOP1_PROB), stats_at(stats, slot, TOP2_PROB)
                stops = top1 - top2 < limit
            elif kind == ADAEDL:
                cell = (row.to(tl.int64) * arms + arm) * RULE_PARAMS
                bound = tl.load(rules.memory + cell).to(tl.float64)
                spread = tl.maximum(stats_at(stats, slot, ENTROPY), 0.0)
                stops = 1.0 - tl.sqrt(limit * spread) < bound
            elif kind == SURVIVAL:
                stops = survival(stats, slot) < limit
    return stops


@triton.jit
def stops_before_drafting(rules, arms, arm_slots, row, known):
    arm = slot_arm(rules, arms, arm_slots, row, 0, known)
    stops = arm >= 0
    if rules.kind is not None:
        known = stops
        kind = tl.load(rules.kind + arm, mask=known, other=-1)
        limit = tl.load(rules.param + arm * RULE_PARAMS, mask=known, other=1.0)
        stops = known & (kind == FIXED_LENGTH) & (limit <= 0.0)
    return stops


@triton.jit
def adaedl_update(memory, accepted, drafted, slots, known):
    """``memory``: pointers to (lambda, AR); ``accepted``, ``drafted``, ``slots`` are f64."""
    threshold = tl.load(memory, mask=known, other=0.0).to(tl.float64)
    rate = tl.load(memory + 1, mask=known, other=0.0).to(tl.float64)
    rate = 0.5 * rate + 0.5 * accepted / tl.where(drafted > 0.0, drafted, 1.0)
    lowered = tl.where(drafted == slots, threshold, threshold - 0.01)
    goal = tl.where(rate < 0.9, threshold + 0.01, lowered)
    tl.store(memory, (0.9 * threshold + 0.1 * goal).to(tl.float32), mask=known)
    tl.store(memory + 1, rate.to(tl.float32), mask=known)
