#include "backend.h"
#include "bandit.h"

namespace tapout::bind {

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
                   const Tensor& calls,               // [1]
                   const Tensor& arm,                 // [R] or [R, K]
                   const OptionalTensor& arm_prob) {  // [R, A] or [R, A, K]
  const Arguments arguments("bandit_select", count);
  const BanditSizes sizes(arguments, count, rows, arm);
  const TableTensors tables = {count, reward_sum, reward_sq, tokens, cost, bandit_params};
  const ChoiceTensors choice = {seed, group, "live", live, rows, calls, "arm", arm, arm_prob};
  run(select_params(sizes, tables, choice, policy, reward, slots), count);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(bandit_select)
