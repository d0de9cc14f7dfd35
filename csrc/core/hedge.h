// What one draft says of every stop rule (Not-a-Bandit, 2510.20064, has drafters; for rules only
// one side is seen). Of rule i:
//   stop_i   where it would have stopped on the drafted prefix, by its own memory; one more where
//            it would have gone on, at most K
//   f_i      1 - reward of min(n_acc, stop_i) accepted of min(stop_i, n_draft) drafts
//   f^_i   = f_i 1{seen_i} / sum_j arm_prob_j 1{stop_j >= stop_i}
//   seen_i   stop_i <= n_draft, or the draft was cut by something that is no rule
// A longer rule is seen with the probability that it, or one as long, is drawn: f^ is unbiased.
#pragma once

#include "stop.h"
#include "weights.h"

namespace tapout {
inline namespace TAPOUT_ISA {

TAPOUT_HD int32_t would_stop(const BanditUpdateParams& params, int64_t b, int64_t row,
                             int64_t arm) {
  const Rules rules = {params.rule_kind, params.rule_param, params.arm,
                       params.memory,    params.arms,       1};
  const int64_t drafted = drafted_slots(params, b);
  if (arm_stops_before_drafting(rules, row, arm)) return 0;
  const float* stats = params.stats + b * params.slots * kStatsColumns;
  for (int64_t j = 0; j < drafted; ++j) {
    const bool stops = arm_stops_after(rules, row, arm, j, stats + j * kStatsColumns);
    if (stops) return static_cast<int32_t>(j + 1);
  }
  return static_cast<int32_t>(drafted < params.slots ? drafted + 1 : params.slots);
}

TAPOUT_HD double loss_until(const BanditUpdateParams& params, int64_t b, int64_t stop) {
  const int64_t drafted = drafted_slots(params, b);
  return 1.0 - round_reward(params, b, stop < drafted ? stop : drafted);
}

// f^ of every arm from the stops of all.
TAPOUT_HD void estimate_losses(const BanditUpdateParams& params, int64_t b, const double* prob,
                               RuleLoss* losses) {
  const StopReason reason = static_cast<StopReason>(params.stop_reason[b]);
  const bool cut = reason != StopReason::kRule && reason != StopReason::kPreDraft;
  for (int64_t i = 0; i < params.arms; ++i) {
    double chance = 0.0;
    for (int64_t j = 0; j < params.arms; ++j) {
      if (losses[j].stop >= losses[i].stop) chance += prob[j];
    }
    const bool seen = cut || losses[i].stop <= drafted_slots(params, b);
    losses[i].estimate =
        seen && chance > 0.0 ? loss_until(params, b, losses[i].stop) / chance : 0.0;
  }
}

// NormalHedge adds up regrets: the loss of its own weights, which epsilon was mixed with, less f^.
TAPOUT_HD void losses_to_regrets(const BanditUpdateParams& params, const double* prob,
                                 RuleLoss* losses) {
  const double epsilon = params.params[kPolicyParam], arms = static_cast<double>(params.arms);
  double mean = 0.0;
  for (int64_t a = 0; a < params.arms; ++a) {
    mean += (prob[a] - epsilon / arms) / (1.0 - epsilon) * losses[a].estimate;
  }
  for (int64_t a = 0; a < params.arms; ++a) losses[a].estimate = mean - losses[a].estimate;
}

// What round b adds to reward_sq of every arm; before the memory of its rule moves.
TAPOUT_HD void learn_of_rules(const BanditUpdateParams& params, int64_t b, int64_t row,
                              RuleLoss* losses) {
  const double* prob = params.arm_prob + row * params.arms;
  for (int64_t a = 0; a < params.arms; ++a) losses[a].stop = would_stop(params, b, row, a);
  estimate_losses(params, b, prob, losses);
  if (params.policy == Policy::kNormalHedge) losses_to_regrets(params, prob, losses);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
