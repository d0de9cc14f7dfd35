// A bandit over stop rules (TapOut, 2511.02017), sequence level.
//   ucb1: argmax mean + c sqrt(2 ln t / n), the lowest arm on ties; n counts this call's pulls too,
//         the mean completed ones only; n = 0 scores +inf; t = max(1, pulls + rows of this call)
//   reward simple = n_acc / K;  blend = alpha n_acc / K + (1 - alpha) n_acc / n_draft;  0 undrafted
#pragma once

#include <math.h>

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

TAPOUT_HD double ucb1_score(double count, double reward_sum, double pending, double log_t,
                            double exploration) {
  const double pulls = count + pending;
  if (pulls <= 0.0) return INFINITY;
  const double mean = count > 0.0 ? reward_sum / count : 0.0;
  return mean + exploration * sqrt(2.0 * log_t / pulls);
}

TAPOUT_HD double bandit_reward(Reward kind, double accepted, double drafted, double slots,
                               double alpha) {
  if (!(drafted > 0.0)) return 0.0;
  const double simple = accepted / slots;
  return kind == Reward::kSimple ? simple : alpha * simple + (1.0 - alpha) * accepted / drafted;
}

TAPOUT_HD double bandit_cost(double cost_ratio, double drafted) {
  return 1.0 + cost_ratio * drafted;
}

TAPOUT_HD int32_t fixed_arm(double param) {
  return param >= 0.0 && param <= 2147483647.0 ? static_cast<int32_t>(param) : -1;
}

// The group of row b, or -1 where the row takes no part.
TAPOUT_HD int64_t bandit_group(const int32_t* group, const bool* live, int64_t groups,
                               int64_t row) {
  if (live && !live[row]) return -1;
  const int64_t index = group ? group[row] : 0;
  return index >= 0 && index < groups ? index : -1;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
