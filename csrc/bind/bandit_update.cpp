#include "../cpu/dispatch.h"
#include "checks.h"

namespace tapout::bind {

void bandit_update(const Tensor& arm,            // [B]
                   const Tensor& draft_tokens,   // [B, K], for K alone
                   const Tensor& length,         // [B]
                   const Tensor& live,           // [B]
                   const Tensor& num_accepted,   // [B]
                   const Tensor& status,         // [B]
                   const OptionalTensor& group,  // [B]
                   const Tensor& bandit_params,  // [8]
                   const Tensor& cost_ratio,     // [1]
                   int64_t reward,
                   const OptionalTensor& rule_kind,   // [A]
                   const OptionalTensor& rule_param,  // [A, 4]
                   const Tensor& count,               // [G, A] each
                   const Tensor& reward_sum, const Tensor& reward_sq, const Tensor& tokens,
                   const Tensor& cost,
                   const OptionalTensor& memory) {  // [B, A, 4]
  const Arguments arguments("bandit_update");
  BanditUpdateParams params = {};
  params.groups = arguments.size("count", count, 2, 0);
  params.arms = count.size(1);
  params.batch = arguments.size("arm", arm, 1, 0);
  params.slots = arguments.size("draft_tokens", draft_tokens, 2, 1);
  if (params.slots < 1) arguments.fail("draft_tokens", "of at least one slot", "none");
  const int64_t batch = params.batch, groups = params.groups, arms = params.arms;
  params.arm = arguments.input<int32_t>("arm", arm, {batch});
  arguments.input<int64_t>("draft_tokens", draft_tokens, {batch, params.slots});
  params.length = arguments.input<int32_t>("length", length, {batch});
  params.live = arguments.input<bool>("live", live, {batch});
  params.num_accepted = arguments.input<int32_t>("num_accepted", num_accepted, {batch});
  params.status = arguments.input<int32_t>("status", status, {batch});
  params.group = arguments.input<int32_t>("group", group, {batch});
  params.params = arguments.input<double>("params", bandit_params, {kBanditParams});
  params.cost_ratio = arguments.input<float>("cost_ratio", cost_ratio, {1});
  params.reward =
      static_cast<Reward>(arguments.choice("reward", reward, "0 (simple) or 1 (blend)"));
  params.rule_kind = arguments.input<int32_t>("rule_kind", rule_kind, {arms});
  arguments.input<float>("rule_param", rule_param, {arms, kRuleParams});
  params.count = arguments.data<double>("count", count, {groups, arms});
  params.reward_sum = arguments.data<double>("reward_sum", reward_sum, {groups, arms});
  params.reward_sq = arguments.data<double>("reward_sq", reward_sq, {groups, arms});
  params.tokens = arguments.data<double>("tokens", tokens, {groups, arms});
  params.cost = arguments.data<double>("cost", cost, {groups, arms});
  if (memory) params.memory = arguments.data<float>("memory", *memory, {batch, arms, kRuleParams});
  cpu_ops().bandit_update(params);
}

}  // namespace tapout::bind

STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) {
  m.impl("bandit_update", TORCH_BOX(&tapout::bind::bandit_update));
  m.impl("bandit_update.cpu", TORCH_BOX(&tapout::bind::bandit_update));
}
