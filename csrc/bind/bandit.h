// What the operators of a bandit share: the sizes read off its tables, the checks, the parameters.
#pragma once

#include "checks.h"

namespace tapout::bind {

// At token level (arm [R, K], tables [G, A, K]) tables and arms have a dimension more.
struct BanditSizes {
  BanditSizes(const Arguments& arguments, const Tensor& count, const OptionalTensor& rows,
              const Tensor& arm)
      : arguments(arguments), token_level(arm.dim() == 2) {
    state_rows = arguments.size("arm", arm, token_level ? 2 : 1, 0);
    batch = rows ? arguments.size("rows", *rows, 1, 0) : state_rows;
    groups = arguments.size("count", count, token_level ? 3 : 2, 0);
    arms = count.size(1);
    table_slots = token_level ? count.size(2) : 1;
    if (arms < 1) arguments.fail("count", "of at least one arm", "none");
    if (table_slots < 1) arguments.fail("count", "of at least one slot", "none");
  }

  StateRows rows(const OptionalTensor& index) const {
    return {arguments.input<int32_t>("rows", index, {batch}), state_rows};
  }

  const double* input(const char* name, const Tensor& table) const {
    return token_level ? arguments.input<double>(name, table, {groups, arms, table_slots})
                       : arguments.input<double>(name, table, {groups, arms});
  }

  double* data(const char* name, const Tensor& table) const {
    return token_level ? arguments.data<double>(name, table, {groups, arms, table_slots})
                       : arguments.data<double>(name, table, {groups, arms});
  }

  // Null without a tensor; a policy that draws by weight needs one.
  const double* arm_prob(Policy policy, const OptionalTensor& prob) const {
    if (!prob && policy >= Policy::kExp3) {
      arguments.fail("arm_prob", "a Tensor with this policy", "None");
    }
    return token_level ? arguments.input<double>("arm_prob", prob, {state_rows, arms, table_slots})
                       : arguments.input<double>("arm_prob", prob, {state_rows, arms});
  }

  double* written_prob(Policy policy, const OptionalTensor& prob) const {
    if (!arm_prob(policy, prob)) return nullptr;
    return token_level ? arguments.data<double>("arm_prob", *prob, {state_rows, arms, table_slots})
                       : arguments.data<double>("arm_prob", *prob, {state_rows, arms});
  }

  Policy policy(int64_t value) const {
    if (value < 0 || value > static_cast<int64_t>(Policy::kNormalHedge)) {
      arguments.fail("policy", "0 (fixed) to 9 (normalhedge)", std::to_string(value));
    }
    const Policy policy = static_cast<Policy>(value);
    if (token_level && policy >= Policy::kHedge) {
      arguments.fail("policy", "0 (fixed) to 7 (exp3) at token level", std::to_string(value));
    }
    return policy;
  }

  int32_t* arm(const char* name, const Tensor& arm) const {
    return token_level ? arguments.data<int32_t>(name, arm, {state_rows, table_slots})
                       : arguments.data<int32_t>(name, arm, {state_rows});
  }

  Reward reward(int64_t value) const {
    const Reward reward = static_cast<Reward>(value);
    const bool of_slots = reward == Reward::kDecision || reward == Reward::kTokenAccept;
    if (value < 0 || value > static_cast<int64_t>(Reward::kOverlap) || of_slots != token_level) {
      arguments.fail("reward",
                     token_level ? "3 (decision) or 4 (token_accept) at token level"
                                 : "0 (simple), 1 (blend), 2 (throughput) or 5 (overlap) at "
                                   "sequence level",
                     std::to_string(value));
    }
    return reward;
  }

  const Arguments& arguments;
  bool token_level;
  int64_t state_rows, batch, groups, arms, table_slots;
};

struct TableTensors {
  const Tensor& count;  // [G, A] or [G, A, K], and the next two
  const Tensor& reward_sum;
  const Tensor& reward_sq;
  const Tensor& tokens;  // [G, A]
  const Tensor& cost;    // [G, A]
  const Tensor& params;  // [8]
};

// A finished round.
struct RoundTensors {
  const Tensor& arm;           // [R] or [R, K]
  const OptionalTensor& rows;  // [B], and the next eight
  const Tensor& draft_tokens;  // [B, K], for K alone
  const Tensor& length;
  const Tensor& stats;  // [B, K, 8]
  const Tensor& live;
  const Tensor& stop_reason;
  const Tensor& num_accepted;
  const OptionalTensor& overlap;  // [B, K]
  const Tensor& status;
  const OptionalTensor& group;
  const Tensor& cost_ratio;          // [1]
  const OptionalTensor& rule_kind;   // [A]
  const OptionalTensor& rule_param;  // [A, 4]
  const OptionalTensor& memory;      // [R, A, 4]
  const OptionalTensor& arm_prob;    // [R, A] or [R, A, K]
};

// A selection; `arm` and `live` have a name of their own in each operator.
struct ChoiceTensors {
  const Tensor& seed;           // [1]
  const OptionalTensor& group;  // [B]
  const char* live_name;
  const OptionalTensor& live;  // [B]
  const OptionalTensor& rows;  // [B]
  const Tensor& calls;         // [1]
  const char* arm_name;
  const Tensor& arm;               // [R] or [R, K]
  const OptionalTensor& arm_prob;  // [R, A] or [R, A, K]
};

BanditUpdateParams update_params(const BanditSizes& sizes, const TableTensors& tables,
                                 const RoundTensors& round, int64_t policy, int64_t reward);

BanditSelectParams select_params(const BanditSizes& sizes, const TableTensors& tables,
                                 const ChoiceTensors& choice, int64_t policy, int64_t reward,
                                 int64_t slots);

}  // namespace tapout::bind
