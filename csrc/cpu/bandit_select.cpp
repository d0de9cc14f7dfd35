// bandit_select: an arm for every row that takes part, by the serial definition (core/bandit.h).
#include "../core/bandit.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static double log_pulls(const BanditSelectParams& params, int64_t group) {
  double total = params.pending[group * (params.arms + 1) + params.arms];
  double count = 0.0;
  for (int64_t a = 0; a < params.arms; ++a) count += params.count[group * params.arms + a];
  total += count;
  return log(total > 1.0 ? total : 1.0);
}

static int64_t best_arm(const BanditSelectParams& params, int64_t group) {
  const double log_t = log_pulls(params, group);
  const double* count = params.count + group * params.arms;
  const double* reward_sum = params.reward_sum + group * params.arms;
  const int32_t* pending = params.pending + group * (params.arms + 1);
  double best = -INFINITY;
  int64_t arm = 0;
  for (int64_t a = 0; a < params.arms; ++a) {
    const double score =
        ucb1_score(count[a], reward_sum[a], pending[a], log_t, params.params[kPolicyParam]);
    if (score > best) {
      best = score;
      arm = a;
    }
  }
  return arm;
}

void bandit_select(const BanditSelectParams& params) {
  const int64_t stride = params.arms + 1;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t group = bandit_group(params.group, params.live, params.groups, b);
    if (group >= 0) params.pending[group * stride + params.arms] += 1;
  }
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t group = bandit_group(params.group, params.live, params.groups, b);
    if (group < 0) continue;
    const int64_t arm = params.policy == Policy::kFixed ? fixed_arm(params.params[kPolicyParam])
                                                        : best_arm(params, group);
    params.arm[b] = static_cast<int32_t>(arm);
    if (params.policy == Policy::kUcb1) params.pending[group * stride + arm] += 1;
  }
  *params.calls += 1;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
