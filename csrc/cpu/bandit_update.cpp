// bandit_update: credit each row's arm, then its stop rule's memory (core/bandit.h, core/stop.h).
#include "../core/bandit.h"
#include "../core/stop.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static void credit(const BanditUpdateParams& params, int64_t b, int64_t cell) {
  const double accepted = params.num_accepted[b], drafted = params.length[b];
  const double reward = bandit_reward(params.reward, accepted, drafted,
                                      static_cast<double>(params.slots), params.params[kAlpha]);
  params.count[cell] += 1.0;
  params.reward_sum[cell] += reward;
  params.reward_sq[cell] += reward * reward;
  params.tokens[cell] += accepted + 1.0;
  params.cost[cell] += bandit_cost(*params.cost_ratio, drafted);
}

static void remember(const BanditUpdateParams& params, int64_t b, int64_t arm) {
  if (!params.memory || !params.rule_kind || params.length[b] <= 0) return;
  if (static_cast<StopKind>(params.rule_kind[arm]) != StopKind::kAdaEdl) return;
  adaedl_update(params.memory + (b * params.arms + arm) * kRuleParams, params.num_accepted[b],
                params.length[b], static_cast<double>(params.slots));
}

void bandit_update(const BanditUpdateParams& params) {
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t group = bandit_group(params.group, params.live, params.groups, b);
    const int64_t arm = params.arm[b];
    if (group < 0 || arm < 0 || arm >= params.arms) continue;
    if (static_cast<Status>(params.status[b]) != Status::kOk) continue;
    credit(params, b, group * params.arms + arm);
    remember(params, b, arm);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
