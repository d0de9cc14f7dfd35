#include <memory>

#include "../cpu/dispatch.h"
#include "checks.h"

namespace tapout::bind {

void bandit_select(const Tensor& count,          // [G, A]
                   const Tensor& reward_sum,     // [G, A]
                   const Tensor& bandit_params,  // [8]
                   const OptionalTensor& group,  // [B]
                   const OptionalTensor& live,   // [B]
                   int64_t policy,
                   const Tensor& calls,  // [1]
                   const Tensor& arm) {  // [B]
  const Arguments arguments("bandit_select");
  BanditSelectParams params = {};
  params.groups = arguments.size("count", count, 2, 0);
  params.arms = count.size(1);
  params.batch = arguments.size("arm", arm, 1, 0);
  const int64_t groups = params.groups, arms = params.arms;
  if (arms < 1) arguments.fail("count", "of at least one arm", "none");
  params.count = arguments.input<double>("count", count, {groups, arms});
  params.reward_sum = arguments.input<double>("reward_sum", reward_sum, {groups, arms});
  params.params = arguments.input<double>("params", bandit_params, {kBanditParams});
  params.group = arguments.input<int32_t>("group", group, {params.batch});
  params.live = arguments.input<bool>("live", live, {params.batch});
  params.policy = static_cast<Policy>(arguments.choice("policy", policy, "0 (fixed) or 1 (ucb1)"));
  params.calls = arguments.data<int64_t>("calls", calls, {1});
  params.arm = arguments.data<int32_t>("arm", arm, {params.batch});
  const std::unique_ptr<int32_t[]> pending(new int32_t[groups * (arms + 1)]());
  params.pending = pending.get();
  cpu_ops().bandit_select(params);
}

}  // namespace tapout::bind

STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) {
  m.impl("bandit_select", TORCH_BOX(&tapout::bind::bandit_select));
  m.impl("bandit_select.cpu", TORCH_BOX(&tapout::bind::bandit_select));
}
