#include "../cpu/dispatch.h"
#include "bandit.h"

namespace tapout::bind {

void bandit_update(const Tensor& arm,            // [R] or [R, K]
                   const OptionalTensor& rows,   // [B]
                   const Tensor& draft_tokens,   // [B, K], for K alone
                   const Tensor& length,         // [B]
                   const Tensor& live,           // [B]
                   const Tensor& stop_reason,    // [B]
                   const Tensor& num_accepted,   // [B]
                   const Tensor& status,         // [B]
                   const OptionalTensor& group,  // [B]
                   const Tensor& bandit_params,  // [8]
                   const Tensor& cost_ratio,     // [1]
                   int64_t reward,
                   const OptionalTensor& rule_kind,   // [A]
                   const OptionalTensor& rule_param,  // [A, 4]
                   const Tensor& count,               // [G, A] or [G, A, K], and the next two
                   const Tensor& reward_sum, const Tensor& reward_sq,
                   const Tensor& tokens,            // [G, A]
                   const Tensor& cost,              // [G, A]
                   const OptionalTensor& memory) {  // [R, A, 4]
  const Arguments arguments("bandit_update");
  const BanditSizes sizes(arguments, count, rows, arm);
  const int64_t batch = sizes.batch, groups = sizes.groups, arms = sizes.arms;
  BanditUpdateParams params = {};
  params.batch = batch;
  params.slots = arguments.size("draft_tokens", draft_tokens, 2, 1);
  params.groups = groups;
  params.arms = arms;
  params.table_slots = sizes.table_slots;
  params.rows = sizes.rows(rows);
  if (params.slots < 1) arguments.fail("draft_tokens", "of at least one slot", "none");
  const int64_t slots = sizes.token_level ? sizes.table_slots : params.slots;
  arguments.input<int64_t>("draft_tokens", draft_tokens, {batch, slots});
  params.arm = sizes.arm(arm);
  params.length = arguments.input<int32_t>("length", length, {batch});
  params.live = arguments.input<bool>("live", live, {batch});
  params.stop_reason = arguments.input<int32_t>("stop_reason", stop_reason, {batch});
  params.num_accepted = arguments.input<int32_t>("num_accepted", num_accepted, {batch});
  params.status = arguments.input<int32_t>("status", status, {batch});
  params.group = arguments.input<int32_t>("group", group, {batch});
  params.params = arguments.input<double>("params", bandit_params, {kBanditParams});
  params.cost_ratio = arguments.input<float>("cost_ratio", cost_ratio, {1});
  params.reward = sizes.reward(reward);
  params.rule_kind = arguments.input<int32_t>("rule_kind", rule_kind, {arms});
  arguments.input<float>("rule_param", rule_param, {arms, kRuleParams});
  params.count = sizes.data("count", count);
  params.reward_sum = sizes.data("reward_sum", reward_sum);
  params.reward_sq = sizes.data("reward_sq", reward_sq);
  params.tokens = arguments.data<double>("tokens", tokens, {groups, arms});
  params.cost = arguments.data<double>("cost", cost, {groups, arms});
  if (memory) {
    params.memory = arguments.data<float>("memory", *memory, {sizes.state_rows, arms, kRuleParams});
  }
  cpu_ops().bandit_update(params);
}

}  // namespace tapout::bind

STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) {
  m.impl("bandit_update", TORCH_BOX(&tapout::bind::bandit_update));
  m.impl("bandit_update.cpu", TORCH_BOX(&tapout::bind::bandit_update));
}
