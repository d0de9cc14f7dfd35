#include "backend.h"
#include "bandit.h"

namespace tapout::bind {

// Every argument is checked before the first kernel writes. `next_arm` may be `arm`.
void bandit_step(const Tensor& arm,                 // [R] or [R, K]
                 const OptionalTensor& rows,        // [B]
                 const Tensor& draft_tokens,        // [B, K], for K alone
                 const Tensor& length,              // [B]
                 const Tensor& stats,               // [B, K, 8]
                 const Tensor& live,                // [B], of the finished round
                 const Tensor& stop_reason,         // [B]
                 const Tensor& num_accepted,        // [B]
                 const OptionalTensor& overlap,     // [B, K]
                 const Tensor& status,              // [B]
                 const OptionalTensor& group,       // [B]
                 const Tensor& bandit_params,       // [8]
                 const Tensor& cost_ratio,          // [1]
                 const OptionalTensor& rule_kind,   // [A]
                 const OptionalTensor& rule_param,  // [A, 4]
                 const Tensor& seed,                // [1]
                 const OptionalTensor& next_live,   // [B], of the coming round
                 int64_t policy, int64_t reward,
                 const Tensor& count,  // [G, A] or [G, A, K], and the next two
                 const Tensor& reward_sum, const Tensor& reward_sq,
                 const Tensor& tokens,              // [G, A]
                 const Tensor& cost,                // [G, A]
                 const OptionalTensor& memory,      // [R, A, 4]
                 const Tensor& calls,               // [1]
                 const Tensor& next_arm,            // like arm
                 const OptionalTensor& arm_prob) {  // [R, A] or [R, A, K]
  const Arguments arguments("bandit_step", count);
  const BanditSizes sizes(arguments, count, rows, arm);
  const TableTensors tables = {count, reward_sum, reward_sq, tokens, cost, bandit_params};
  const RoundTensors round = {arm,         rows,         draft_tokens, length,  stats, live,
                              stop_reason, num_accepted, overlap,      status,  group, cost_ratio,
                              rule_kind,   rule_param,   memory,       arm_prob};
  const ChoiceTensors choice = {seed,  group,      "next_live", next_live, rows,
                                calls, "next_arm", next_arm,    arm_prob};
  const BanditUpdateParams update = update_params(sizes, tables, round, policy, reward);
  run(update, select_params(sizes, tables, choice, policy, reward, update.slots), count);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(bandit_step)
