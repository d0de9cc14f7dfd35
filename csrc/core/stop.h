// Stop rules: from draft-side statistics, decide whether to go on drafting after slot j. The token
// whose statistics fired is kept. H in nats; h, n, gamma = parameter 0 of the arm.
//   fixed_length     j + 1 >= n          svip             sqrt(H_j) > h            (2411.18462)
//   max_confidence   top1_prob < h       svip_difference  sqrt(H_j) - sqrt(H_{j-1}) > h, j > 0
//   logit_margin     top1 - top2 < h     adaedl           1 - sqrt(gamma H) < lambda  (2410.18351)
//   survival         prod_{i<=j} e_i < h (SpecDec++, 2405.19715), e = the acceptance estimate given
//                    for the slot, else top1_prob
//   gammatune, heuristic, predicted_length, adl    j + 1 >= the length in memory
//   gammatune_plus   that, or top1_prob < tau        (2504.00030; tau = parameter 3)
//   hysteresis       while off: a probe is one token
//   adasd_entropy    H > the midpoint of the mean H of accepted and of rejected tokens (2512.11280)
// Nothing at all is drafted by fixed_length with n <= 0, by predicted_length with a prediction that
// rounds to 0, and by hysteresis while off, but for every probe_every-th round.
// lambda and the rest of the memory: stop_memory.h.
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

TAPOUT_HD const float* arm_memory(const Rules& rules, int64_t row, int64_t arm) {
  return rules.memory + (row * rules.arms + arm) * kRuleParams;
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

TAPOUT_HD bool reaches_length(const float* memory, int64_t slot) {
  return static_cast<double>(slot + 1) >= memory[0];
}

TAPOUT_HD bool hysteresis_is_off(const float* memory) { return memory[1] != 0.0f; }

TAPOUT_HD bool hysteresis_refuses(const float* memory, double probe_every) {
  return hysteresis_is_off(memory) && memory[2] + 1.0 < probe_every;
}

// No threshold before a token was accepted and one rejected.
TAPOUT_HD bool adasd_stops(const float* stats, const float* memory) {
  if (!(memory[0] > 0.0f && memory[2] > 0.0f)) return false;
  const double value = stats[kEntropy], accepted = memory[1], rejected = memory[3];
  return (value > 0.0 ? value : 0.0) > (accepted + rejected) / 2.0;
}

// What that rule remembers of a prediction: rounded, halves up, in [0, K]; NaN is none.
TAPOUT_HD float predicted_length(float prediction, int64_t slots) {
  const double length = floor(prediction + 0.5), most = static_cast<double>(slots);
  return static_cast<float>(length < 0.0 ? 0.0 : length > most ? most : length);
}

// Every predicted_length arm of batch row b, which is live, remembers its prediction.
TAPOUT_HD void take_prediction(const ProposalResetParams& params, int64_t b, int64_t row) {
  if (!params.prediction || !params.rules.kind) return;
  for (int64_t arm = 0; arm < params.rules.arms; ++arm) {
    if (static_cast<StopKind>(params.rules.kind[arm]) != StopKind::kPredictedLength) continue;
    params.memory[(row * params.rules.arms + arm) * kRuleParams] =
        predicted_length(params.prediction[b], params.proposal.slots);
  }
}

TAPOUT_HD bool arm_stops_before_drafting(const Rules& rules, int64_t row, int64_t arm) {
  const float* param = rules.param + arm * kRuleParams;
  switch (static_cast<StopKind>(rules.kind[arm])) {
    case StopKind::kFixedLength: return param[0] <= 0.0f;
    case StopKind::kHysteresis: return hysteresis_refuses(arm_memory(rules, row, arm), param[3]);
    case StopKind::kPredictedLength: return arm_memory(rules, row, arm)[0] <= 0.0f;
    default: return false;
  }
}

TAPOUT_HD bool stops_before_drafting(const Rules& rules, int64_t row) {
  const int64_t arm = slot_arm(rules, row, 0);
  return arm >= 0 && arm_stops_before_drafting(rules, row, arm);
}

// `stats` points at the row of slot j inside [K, 8]: the row before it is slot j - 1.
TAPOUT_HD bool arm_stops_after(const Rules& rules, int64_t row, int64_t arm, int64_t slot,
                               const float* stats) {
  const float* memory = arm_memory(rules, row, arm);
  const float* param = rules.param + arm * kRuleParams;
  const double limit = param[0], spread = root_entropy(stats);
  const double top1 = stats[kTop1Prob], top2 = stats[kTop2Prob];
  switch (static_cast<StopKind>(rules.kind[arm])) {
    case StopKind::kFixedLength: return static_cast<double>(slot + 1) >= limit;
    case StopKind::kMaxConfidence: return top1 < limit;
    case StopKind::kSvip: return spread > limit;
    case StopKind::kSvipDifference: return slot > 0 && rises(stats, limit);
    case StopKind::kLogitMargin: return top1 - top2 < limit;
    case StopKind::kAdaEdl: return adaedl_stops(stats, limit, memory[0]);
    case StopKind::kSurvival: return survival(stats, slot) < limit;
    case StopKind::kGammaTunePlus: return reaches_length(memory, slot) || top1 < param[3];
    case StopKind::kGammaTune:
    case StopKind::kHeuristic:
    case StopKind::kPredictedLength:
    case StopKind::kAdl: return reaches_length(memory, slot);
    case StopKind::kHysteresis: return hysteresis_is_off(memory);
    case StopKind::kAdaSdEntropy: return adasd_stops(stats, memory);
  }
  return false;
}

TAPOUT_HD bool stops_after(const Rules& rules, int64_t row, int64_t slot, const float* stats) {
  const int64_t arm = slot_arm(rules, row, slot);
  return arm >= 0 && arm_stops_after(rules, row, arm, slot, stats);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
