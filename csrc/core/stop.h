// Stop rules: from draft-side statistics, decide whether to go on drafting after slot j. The token
// whose statistics fired is kept. H in nats; h, n, gamma = parameter 0 of the arm.
//   fixed_length     j + 1 >= n          svip             sqrt(H_j) > h            (2411.18462)
//   max_confidence   top1_prob < h       svip_difference  sqrt(H_j) - sqrt(H_{j-1}) > h, j > 0
//   logit_margin     top1 - top2 < h     adaedl           1 - sqrt(gamma H) < lambda  (2410.18351)
//   survival         prod_{i<=j} e_i < h (SpecDec++, 2405.19715), e = the acceptance estimate given
//                    for the slot, else top1_prob
// after a round with drafts, adaedl's memory (lambda, AR) follows the Draft&Verify code:
//   AR <- AR/2 + n_acc/n_draft/2;  lambda' = lambda + .01 if AR < .9, else lambda - .01 unless
//   every slot was drafted;  lambda <- .9 lambda + .1 lambda'
#pragma once

#include <math.h>

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// The arm of one slot, or -1 where no rule applies (no table, or an arm outside it). `row` is a row
// of state.
TAPOUT_HD int64_t slot_arm(const Rules& rules, int64_t row, int64_t slot) {
  if (!rules.kind || !rules.arm) return -1;
  const int64_t column = slot < rules.arm_slots ? slot : rules.arm_slots - 1;
  const int64_t arm = rules.arm[row * rules.arm_slots + column];
  return arm >= 0 && arm < rules.arms ? arm : -1;
}

TAPOUT_HD double root_entropy(const float* stats) {
  const double value = stats[kEntropy];
  return sqrt(value > 0.0 ? value : 0.0);
}

TAPOUT_HD double adaedl_lambda(const Rules& rules, int64_t row, int64_t arm) {
  return rules.memory[(row * rules.arms + arm) * kRuleParams];
}

TAPOUT_HD bool rises(const float* stats, double limit) {
  return root_entropy(stats) - root_entropy(stats - kStatsColumns) > limit;
}

TAPOUT_HD bool adaedl_stops(const float* stats, double gamma, double lambda) {
  const double value = stats[kEntropy];
  return 1.0 - sqrt(gamma * (value > 0.0 ? value : 0.0)) < lambda;
}

TAPOUT_HD double acceptance_estimate(const float* stats) {
  return stats[kAcceptEstimate] != 0.0f ? stats[kAcceptEstimate] : stats[kTop1Prob];
}

// How likely slots 0..slot are all accepted; `stats` is the row of `slot`.
TAPOUT_HD double survival(const float* stats, int64_t slot) {
  double product = 1.0;
  for (int64_t i = slot; i >= 0; --i) product *= acceptance_estimate(stats - i * kStatsColumns);
  return product;
}

// What is stored of an estimate: 0 means that none was given.
TAPOUT_HD float stored_estimate(float estimate) { return estimate > 0.0f ? estimate : 0x1p-126f; }

TAPOUT_HD bool stops_before_drafting(const Rules& rules, int64_t row) {
  const int64_t arm = slot_arm(rules, row, 0);
  if (arm < 0 || static_cast<StopKind>(rules.kind[arm]) != StopKind::kFixedLength) return false;
  return rules.param[arm * kRuleParams] <= 0.0f;
}

// `stats` points at the row of slot j inside [K, 8]: the row before it is slot j - 1.
TAPOUT_HD bool stops_after(const Rules& rules, int64_t row, int64_t slot, const float* stats) {
  const int64_t arm = slot_arm(rules, row, slot);
  if (arm < 0) return false;
  const double limit = rules.param[arm * kRuleParams], spread = root_entropy(stats);
  const double top1 = stats[kTop1Prob], top2 = stats[kTop2Prob];
  switch (static_cast<StopKind>(rules.kind[arm])) {
    case StopKind::kFixedLength: return static_cast<double>(slot + 1) >= limit;
    case StopKind::kMaxConfidence: return top1 < limit;
    case StopKind::kSvip: return spread > limit;
    case StopKind::kSvipDifference: return slot > 0 && rises(stats, limit);
    case StopKind::kLogitMargin: return top1 - top2 < limit;
    case StopKind::kAdaEdl: return adaedl_stops(stats, limit, adaedl_lambda(rules, row, arm));
    case StopKind::kSurvival: return survival(stats, slot) < limit;
  }
  return false;
}

TAPOUT_HD void adaedl_update(float* memory, double accepted, double drafted, double slots) {
  const double rate = 0.5 * memory[1] + 0.5 * accepted / drafted;
  const double lambda = memory[0];
  double goal = lambda;
  if (rate < 0.9) {
    goal = lambda + 0.01;
  } else if (drafted != slots) {
    goal = lambda - 0.01;
  }
  memory[0] = static_cast<float>(0.9 * lambda + 0.1 * goal);
  memory[1] = static_cast<float>(rate);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
