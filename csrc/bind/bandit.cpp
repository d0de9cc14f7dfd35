#include "bandit.h"

namespace tapout::bind {

static int64_t draft_slots(const BanditSizes& sizes, const Tensor& draft_tokens) {
  const Arguments& arguments = sizes.arguments;
  const int64_t slots = arguments.size("draft_tokens", draft_tokens, 2, 1);
  if (slots < 1) arguments.fail("draft_tokens", "of at least one slot", "none");
  const int64_t expected = sizes.token_level ? sizes.table_slots : slots;
  arguments.input<int64_t>("draft_tokens", draft_tokens, {sizes.batch, expected});
  return slots;
}

static void set_tables(BanditUpdateParams& params, const BanditSizes& sizes,
                       const TableTensors& tables) {
  const Arguments& arguments = sizes.arguments;
  params.params = arguments.input<double>("params", tables.params, {kBanditParams});
  params.count = sizes.data("count", tables.count);
  params.reward_sum = sizes.data("reward_sum", tables.reward_sum);
  params.reward_sq = sizes.data("reward_sq", tables.reward_sq);
  params.tokens = arguments.data<double>("tokens", tables.tokens, {sizes.groups, sizes.arms});
  params.cost = arguments.data<double>("cost", tables.cost, {sizes.groups, sizes.arms});
}

// Hedges ask every rule what it would have done.
static void check_rules(const Arguments& arguments, Policy policy, const RoundTensors& round) {
  if (policy < Policy::kHedge) return;
  if (!round.rule_kind) arguments.fail("rule_kind", "a Tensor with this policy", "None");
  if (!round.memory) arguments.fail("memory", "a Tensor with this policy", "None");
}

BanditUpdateParams update_params(const BanditSizes& sizes, const TableTensors& tables,
                                 const RoundTensors& round, int64_t policy, int64_t reward) {
  const Arguments& arguments = sizes.arguments;
  const int64_t batch = sizes.batch, arms = sizes.arms;
  BanditUpdateParams params = {};
  params.batch = batch;
  params.slots = draft_slots(sizes, round.draft_tokens);
  params.groups = sizes.groups;
  params.arms = arms;
  params.table_slots = sizes.table_slots;
  params.rows = sizes.rows(round.rows);
  params.arm = sizes.arm("arm", round.arm);
  params.length = arguments.input<int32_t>("length", round.length, {batch});
  params.stats = arguments.input<float>("stats", round.stats, {batch, params.slots, kStatsColumns});
  params.live = arguments.input<bool>("live", round.live, {batch});
  params.stop_reason = arguments.input<int32_t>("stop_reason", round.stop_reason, {batch});
  params.num_accepted = arguments.input<int32_t>("num_accepted", round.num_accepted, {batch});
  params.overlap = arguments.input<float>("overlap", round.overlap, {batch, params.slots});
  params.status = arguments.input<int32_t>("status", round.status, {batch});
  params.group = arguments.input<int32_t>("group", round.group, {batch});
  params.cost_ratio = arguments.input<float>("cost_ratio", round.cost_ratio, {1});
  params.policy = sizes.policy(policy);
  params.reward = sizes.reward(reward);
  if (params.reward == Reward::kOverlap && !round.overlap) {
    arguments.fail("overlap", "a Tensor with this reward", "None");
  }
  params.arm_prob = sizes.arm_prob(params.policy, round.arm_prob);
  check_rules(arguments, params.policy, round);
  params.rule_kind = arguments.input<int32_t>("rule_kind", round.rule_kind, {arms});
  if (round.rule_kind && !round.rule_param) {
    arguments.fail("rule_param", "given with rule_kind", "None");
  }
  params.rule_param = arguments.input<float>("rule_param", round.rule_param, {arms, kRuleParams});
  set_tables(params, sizes, tables);
  if (round.memory) {
    params.memory =
        arguments.data<float>("memory", *round.memory, {sizes.state_rows, arms, kRuleParams});
  }
  return params;
}

BanditSelectParams select_params(const BanditSizes& sizes, const TableTensors& tables,
                                 const ChoiceTensors& choice, int64_t policy, int64_t reward,
                                 int64_t slots) {
  const Arguments& arguments = sizes.arguments;
  const Shape row = {sizes.groups, sizes.arms};
  BanditSelectParams params = {};
  params.batch = sizes.batch;
  params.rows = sizes.rows(choice.rows);
  params.tables = {sizes.groups,
                   sizes.arms,
                   sizes.table_slots,
                   sizes.input("count", tables.count),
                   sizes.input("reward_sum", tables.reward_sum),
                   sizes.input("reward_sq", tables.reward_sq),
                   arguments.input<double>("tokens", tables.tokens, row),
                   arguments.input<double>("cost", tables.cost, row),
                   arguments.input<double>("params", tables.params, {kBanditParams})};
  params.seed = arguments.input<int64_t>("seed", choice.seed, {1});
  params.group = arguments.input<int32_t>("group", choice.group, {sizes.batch});
  params.live = arguments.input<bool>(choice.live_name, choice.live, {sizes.batch});
  params.policy = sizes.policy(policy);
  params.reward = sizes.reward(reward);
  if (slots < 1) arguments.fail("slots", "at least 1", std::to_string(slots));
  params.slots = slots;
  params.calls = arguments.data<int64_t>("calls", choice.calls, {1});
  params.arm = sizes.arm(choice.arm_name, choice.arm);
  params.arm_prob = sizes.written_prob(params.policy, choice.arm_prob);
  return params;
}

}  // namespace tapout::bind
