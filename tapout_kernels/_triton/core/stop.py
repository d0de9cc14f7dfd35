"""Stop rules, as ``csrc/core/stop.h`` has them: from draft-side statistics alone.

After a round with drafts, adaedl's memory (lambda, AR) follows the Draft & Verify code:
AR <- AR/2 + n_acc/n_draft/2;  lambda' = lambda + .01 if AR < .9, else lambda - .01 unless every
slot was drafted;  lambda <- .9 lambda + .1 lambda'.
"""

from __future__ import annotations

import triton
import triton.language as tl

NONE = tl.constexpr(0)  # stop_reason
RULE = tl.constexpr(1)
MAX_LENGTH = tl.constexpr(2)
PRE_DRAFT = tl.constexpr(3)
NOT_LIVE = tl.constexpr(4)
BAD_LOGITS = tl.constexpr(5)

FIXED_LENGTH = tl.constexpr(0)  # kinds
ADAEDL = tl.constexpr(5)

RULE_PARAMS = tl.constexpr(4)  # columns of rule_param [A, 4] and memory [R, A, 4]


@triton.jit
def slot_arm(rules, arms, arm_slots, row, slot, known):
    """The arm of one slot, or -1 where no rule applies; ``known``: rows of state to look at."""
    arm = row * 0 - 1
    if rules.kind is not None:
        column = tl.minimum(slot, arm_slots - 1)
        arm = tl.load(rules.arm + row * arm_slots + column, mask=known, other=-1).to(tl.int64)
    return tl.where((arm >= 0) & (arm < arms), arm, -1)


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
