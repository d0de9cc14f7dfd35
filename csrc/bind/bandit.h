// The sizes both operators of a bandit read off its tables, and the tables' checks.
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

  int32_t* arm(const Tensor& arm) const {
    return token_level ? arguments.data<int32_t>("arm", arm, {state_rows, table_slots})
                       : arguments.data<int32_t>("arm", arm, {state_rows});
  }

  Reward reward(int64_t value) const {
    const int64_t first = static_cast<int64_t>(token_level ? Reward::kDecision : Reward::kSimple);
    const int64_t last =
        static_cast<int64_t>(token_level ? Reward::kTokenAccept : Reward::kThroughput);
    if (value < first || value > last) {
      arguments.fail("reward",
                     token_level ? "3 (decision) or 4 (token_accept) at token level"
                                 : "0 (simple), 1 (blend) or 2 (throughput) at sequence level",
                     std::to_string(value));
    }
    return static_cast<Reward>(value);
  }

  const Arguments& arguments;
  bool token_level;
  int64_t state_rows, batch, groups, arms, table_slots;
};

}  // namespace tapout::bind
