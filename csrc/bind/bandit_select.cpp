#include <memory>

#include "../cpu/dispatch.h"
#include "bandit.h"

namespace tapout::bind {

static Policy checked_policy(const Arguments& arguments, int64_t value) {
  if (value < 0 || value > static_cast<int64_t>(Policy::kEpsilonGreedy)) {
    arguments.fail("policy", "0 (fixed) to 5 (epsilon_greedy)", std::to_string(value));
  }
  return static_cast<Policy>(value);
}

static void run(BanditSelectParams& params) {
  const BanditTables& tables = params.tables;
  const std::unique_ptr<int32_t[]> group_rows(new int32_t[tables.groups]());
  const std::unique_ptr<ScoredArm[]> scored(
      new ScoredArm[tables.groups * tables.table_slots * tables.arms]);
  params.group_rows = group_rows.get();
  params.scored = scored.get();
  cpu_ops().bandit_select(params);
}

void bandit_select(const Tensor& count,  // [G, A] or [G, A, K], and the next two
                   const Tensor& reward_sum, const Tensor& reward_sq,
                   const Tensor& tokens,         // [G, A]
                   const Tensor& cost,           // [G, A]
                   const Tensor& bandit_params,  // [8]
                   const Tensor& seed,           // [1]
                   const OptionalTensor& group,  // [B]
                   const OptionalTensor& live,   // [B]
                   const OptionalTensor& rows,   // [B]
                   int64_t policy, int64_t reward, int64_t slots,
                   const Tensor& calls,  // [1]
                   const Tensor& arm) {  // [R] or [R, K]
  const Arguments arguments("bandit_select");
  const BanditSizes sizes(arguments, count, rows, arm);
  BanditSelectParams params = {};
  params.batch = sizes.batch;
  params.rows = sizes.rows(rows);
  params.tables = {sizes.groups,
                   sizes.arms,
                   sizes.table_slots,
                   sizes.input("count", count),
                   sizes.input("reward_sum", reward_sum),
                   sizes.input("reward_sq", reward_sq),
                   arguments.input<double>("tokens", tokens, {sizes.groups, sizes.arms}),
                   arguments.input<double>("cost", cost, {sizes.groups, sizes.arms}),
                   arguments.input<double>("params", bandit_params, {kBanditParams})};
  params.seed = arguments.input<int64_t>("seed", seed, {1});
  params.group = arguments.input<int32_t>("group", group, {sizes.batch});
  params.live = arguments.input<bool>("live", live, {sizes.batch});
  params.policy = checked_policy(arguments, policy);
  params.reward = sizes.reward(reward);
  if (slots < 1) arguments.fail("slots", "at least 1", std::to_string(slots));
  params.slots = slots;
  params.calls = arguments.data<int64_t>("calls", calls, {1});
  params.arm = sizes.arm(arm);
  run(params);
}

}  // namespace tapout::bind

STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) {
  m.impl("bandit_select", TORCH_BOX(&tapout::bind::bandit_select));
  m.impl("bandit_select.cpu", TORCH_BOX(&tapout::bind::bandit_select));
}
