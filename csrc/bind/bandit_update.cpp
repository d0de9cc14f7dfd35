#include "backend.h"
#include "bandit.h"

namespace tapout::bind {

void bandit_update(const Tensor& arm,              // [R] or [R, K]
                   const OptionalTensor& rows,     // [B]
                   const Tensor& draft_tokens,     // [B, K], for K alone
                   const Tensor& length,           // [B]
                   const Tensor& stats,            // [B, K, 8]
                   const Tensor& live,             // [B]
                   const Tensor& stop_reason,      // [B]
                   const Tensor& num_accepted,     // [B]
                   const OptionalTensor& overlap,  // [B, K]
                   const Tensor& status,           // [B]
                   const OptionalTensor& group,    // [B]
                   const Tensor& bandit_params,    // [8]
                   const Tensor& cost_ratio,       // [1]
                   int64_t policy, int64_t reward,
                   const OptionalTensor& rule_kind,   // [A]
                   const OptionalTensor& rule_param,  // [A, 4]
                   const OptionalTensor& arm_prob,    // [R, A] or [R, A, K]
                   const Tensor& count,               // [G, A] or [G, A, K], and the next two
                   const Tensor& reward_sum, const Tensor& reward_sq,
                   const Tensor& tokens,            // [G, A]
                   const Tensor& cost,              // [G, A]
                   const OptionalTensor& memory) {  // [R, A, 4]
  const Arguments arguments("bandit_update", count);
  const BanditSizes sizes(arguments, count, rows, arm);
  const TableTensors tables = {count, reward_sum, reward_sq, tokens, cost, bandit_params};
  const RoundTensors round = {arm,         rows,         draft_tokens, length,  stats, live,
                              stop_reason, num_accepted, overlap,      status,  group, cost_ratio,
                              rule_kind,   rule_param,   memory,       arm_prob};
  run(update_params(sizes, tables, round, policy, reward), count);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(bandit_update)
