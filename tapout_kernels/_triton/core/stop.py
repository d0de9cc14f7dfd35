"""Stop rules: from draft-side statistics, decide whether to go on drafting after slot j.

    fixed_length     j + 1 >= n          svip             sqrt(H_j) > h            (2411.18462)
    max_confidence   top1_prob < h       svip_difference  sqrt(H_j) - sqrt(H_{j-1}) > h, j > 0
    logit_margin     top1 - top2 < h     adaedl           1 - sqrt(gamma H) < lambda  (2410.18351)
    survival         prod_{i<=j} e_i < h (SpecDec++, 2405.19715), e = the acceptance estimate given
                     for the slot, else top1_prob
    gammatune, heuristic, predicted_length, adl    j + 1 >= the length in memory
    gammatune_plus   that, or top1_prob < tau        (2504.00030; tau = parameter 3)
    hysteresis       while off: a probe is one token
    adasd_entropy    H > the midpoint of the mean H of accepted and of rejected tokens (2512.11280)

The statistics decide as they are stored; h, n, gamma = parameter 0 of the arm.  Nothing at all is
drafted by fixed_length with n <= 0, by predicted_length with a prediction that rounds to 0, and by
hysteresis while off, but for every probe_every-th round.  The memory: :mod:`.stop_memory`.
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
GAMMATUNE = tl.constexpr(7)
GAMMATUNE_PLUS = tl.constexpr(8)
HEURISTIC = tl.constexpr(9)
HYSTERESIS = tl.constexpr(10)
ADASD_ENTROPY = tl.constexpr(11)
PREDICTED_LENGTH = tl.constexpr(12)
ADL = tl.constexpr(13)
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
def entropy_at(stats, slot):
    return tl.maximum(stats_at(stats, slot, ENTROPY), 0.0)


@triton.jit
def root_entropy(stats, slot):
    return tl.sqrt(entropy_at(stats, slot))


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
def arm_value(table, cell, column):
    """float64 of one of an arm's four parameters, or of what it remembers."""
    return tl.load(table + cell * RULE_PARAMS + column).to(tl.float64)


@triton.jit
def adasd_stops(stats, slot, memory, cell):
    """No threshold before a token was accepted and one rejected."""
    known = (arm_value(memory, cell, 0) > 0.0) & (arm_value(memory, cell, 2) > 0.0)
    between = (arm_value(memory, cell, 1) + arm_value(memory, cell, 3)) / 2.0
    return known & (entropy_at(stats, slot) > between)


@triton.jit
def stops_after(rules, arms, arm_slots, row, slot, stats):
    """``stats`` [K, 8] of the draft, written up to ``slot``."""
    arm = slot_arm(rules, arms, arm_slots, row, slot, slot >= 0)
    return arm_stops_after(rules, arms, arm, row, slot, stats)


@triton.jit
def arm_stops_after(rules, arms, arm, row, slot, stats):
    """The same of any ``arm``; -1 is no rule."""
    stops = slot < 0
    if rules.kind is not None:
        if arm >= 0:
            kind = tl.load(rules.kind + arm)
            limit = arm_value(rules.param, arm, 0)
            cell = row.to(tl.int64) * arms + arm
            length = (slot + 1).to(tl.float64)
            if kind == FIXED_LENGTH:
                stops = length >= limit
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
                bound = arm_value(rules.memory, cell, 0)
                stops = 1.0 - tl.sqrt(limit * entropy_at(stats, slot)) < bound
            elif kind == SURVIVAL:
                stops = survival(stats, slot) < limit
            elif kind == GAMMATUNE_PLUS:
                unsure = stats_at(stats, slot, TOP1_PROB) < arm_value(rules.param, arm, 3)
                stops = (length >= arm_value(rules.memory, cell, 0)) | unsure
            elif kind == HYSTERESIS:
                stops = arm_value(rules.memory, cell, 1) != 0.0
            elif kind == ADASD_ENTROPY:
                stops = adasd_stops(stats, slot, rules.memory, cell)
            elif (kind >= GAMMATUNE) & (kind <= ADL):
                stops = length >= arm_value(rules.memory, cell, 0)
    return stops


@triton.jit
def take_prediction(rules, prediction, arms, slots, row, b, live):
    """Every predicted_length arm of the live rows ``b`` remembers its prediction: rounded, halves
    up, in [0, K]; NaN is none."""
    told = tl.load(prediction + b, mask=live, other=0.0).to(tl.float64)
    length = tl.floor(told + 0.5)
    length = tl.where(length < 0.0, 0.0, tl.where(length > slots, slots, length)).to(tl.float32)
    for arm in range(arms):
        predicted = tl.load(rules.kind + arm) == PREDICTED_LENGTH
        cell = (row * arms + arm) * RULE_PARAMS
        tl.store(rules.memory + cell, length, mask=live & predicted)
    tl.debug_barrier()  # the pre-draft test reads it


@triton.jit
def stops_before_drafting(rules, arms, arm_slots, row, known):
    arm = slot_arm(rules, arms, arm_slots, row, 0, known)
    return arm_stops_before_drafting(rules, arms, arm, row)


@triton.jit
def arm_stops_before_drafting(rules, arms, arm, row):
    stops = arm >= 0
    if rules.kind is not None:
        known = stops
        kind = tl.load(rules.kind + arm, mask=known, other=-1)
        first = tl.load(rules.param + arm * RULE_PARAMS, mask=known, other=1.0)
        last = tl.load(rules.param + arm * RULE_PARAMS + 3, mask=known, other=1.0)
        memory = rules.memory + (row * arms + arm) * RULE_PARAMS
        length = tl.load(memory, mask=known, other=1.0)
        off = tl.load(memory + 1, mask=known, other=0.0) != 0.0
        idle = tl.load(memory + 2, mask=known, other=0.0).to(tl.float64)
        stops = (kind == FIXED_LENGTH) & (first <= 0.0)
        stops = stops | ((kind == PREDICTED_LENGTH) & (length <= 0.0))
        stops = stops | ((kind == HYSTERESIS) & off & (idle + 1.0 < last.to(tl.float64)))
        stops = known & stops
    return stops
