// bandit_update: credit each row's arm, then its stop rule's memory (core/bandit.h,
// core/stop_memory.h). Row after row: what a credit touches (its slot of its group) is discounted,
// then credited.
#include "../core/hedge.h"
#include "../core/rows.h"
#include "../core/stop_memory.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static void discount(const BanditUpdateParams& params, double* group_table, int64_t stride) {
  const double kept = params.params[kDiscount];
  if (kept == 1.0) return;
  for (int64_t a = 0; a < params.arms; ++a) group_table[a * stride] *= kept;
}

static void credit(const BanditUpdateParams& params, int64_t row, int64_t group, int64_t arm,
                   int64_t slot, double reward) {
  const double square =
      credited_square(params.policy, reward, drawn_chance(params, row, arm, slot));
  if (square < 0.0) return;
  const int64_t stride = params.table_slots, first = group * params.arms * stride + slot;
  double* const tables[] = {params.count, params.reward_sum, params.reward_sq};
  for (double* table : tables) discount(params, table + first, stride);
  const int64_t cell = first + arm * stride;
  params.count[cell] += 1.0;
  params.reward_sum[cell] += reward;
  params.reward_sq[cell] += square;
}

// Every rule learns of its loss; what was earned is the arm's that ran.
static void credit_rules(const BanditUpdateParams& params, int64_t b, int64_t row, int64_t group,
                         int64_t arm) {
  if (!(drawn_chance(params, row, arm, 0) > 0.0)) return;
  learn_of_rules(params, b, row, params.losses);
  const int64_t first = group * params.arms;
  double* const tables[] = {params.count, params.reward_sum, params.reward_sq};
  for (double* table : tables) discount(params, table + first, 1);
  params.count[first + arm] += 1.0;
  params.reward_sum[first + arm] += round_reward(params, b, drafted_slots(params, b));
  for (int64_t a = 0; a < params.arms; ++a) {
    params.reward_sq[first + a] += params.losses[a].estimate;
  }
}

static void spend(const BanditUpdateParams& params, int64_t b, int64_t group, int64_t arm) {
  const int64_t first = group * params.arms;
  discount(params, params.tokens + first, 1);
  discount(params, params.cost + first, 1);
  params.tokens[first + arm] += static_cast<double>(params.num_accepted[b]) + 1.0;
  params.cost[first + arm] += bandit_cost(*params.cost_ratio, params.length[b]);
}

// `arm` of one row: [1], or [K] at token level.
static void credit_sequence(const BanditUpdateParams& params, int64_t b, int64_t row, int64_t group,
                            int32_t arm) {
  credit(params, row, group, arm, 0, round_reward(params, b, drafted_slots(params, b)));
}

static void credit_slots(const BanditUpdateParams& params, int64_t b, int64_t row, int64_t group,
                         const int32_t* arm) {
  const StopReason reason = static_cast<StopReason>(params.stop_reason[b]);
  for (int64_t j = 0; j < params.table_slots; ++j) {
    const int32_t reward =
        slot_credit(params.reward, reason, j, params.num_accepted[b], params.length[b]);
    const bool known = arm[j] >= 0 && arm[j] < params.arms;
    if (reward >= 0 && known) credit(params, row, group, arm[j], j, reward);
  }
}

// The slot whose arm answers for the round: the last drafted one, at sequence level the only one.
static int64_t last_slot(const BanditUpdateParams& params, int64_t b) {
  const int64_t drafted =
      params.length[b] < params.table_slots ? params.length[b] : params.table_slots;
  return drafted > 0 ? drafted - 1 : 0;
}

void bandit_update(const BanditUpdateParams& params) {
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t row = state_row(params.rows, b);
    const int64_t group = bandit_group(params.group, params.live, params.groups, b);
    if (row < 0 || group < 0 || static_cast<Status>(params.status[b]) != Status::kOk) continue;
    const int32_t* arm = params.arm + row * params.table_slots;
    const int32_t ran = arm[last_slot(params, b)];
    const bool known = ran >= 0 && ran < params.arms;
    if (learns_of_rules(params.policy)) {
      if (known) credit_rules(params, b, row, group, ran);
    } else if (token_level(params.reward)) {
      credit_slots(params, b, row, group, arm);
    } else if (known) {
      credit_sequence(params, b, row, group, ran);
    }
    if (!known) continue;
    spend(params, b, group, ran);
    remember(params, b, row, ran);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
