// Finished rounds become credit. A tile of rounds is judged at once, a thread each; then every
// thread has an arm and adds what the rounds say of it, in the order of the batch.
#pragma once

#include "../core/hedge.h"
#include "../core/stop_memory.h"
#include "bandit_rows.cuh"

namespace tapout::cuda {

struct Lesson {
  double reward;
  double square;  // what it adds to reward_sq
  double emitted;
  double spent;
  int32_t credited;  // the arm, or -1
  int32_t round;     // of the batch
  int32_t paying;    // of the group's tokens and cost; -1: nobody, or another block's
};

// An arm of the tables, -1 for any other number.
__device__ inline int32_t known_arm(const BanditUpdateParams& params, int32_t arm) {
  return arm >= 0 && arm < params.arms ? arm : -1;
}

// Round b, for the arms of one slot. The block of slot 0 also keeps accounts and memories.
__device__ inline Lesson judge(const BanditUpdateParams& params, BanditCell cell, int64_t b) {
  Lesson lesson = {0.0, 0.0, 0.0, 0.0, -1, static_cast<int32_t>(b), -1};
  if (group_of(params, params.groups, b) != cell.group) return lesson;
  if (static_cast<Status>(params.status[b]) != Status::kOk) return lesson;
  const int64_t row = state_row(params.rows, b);
  const int32_t accepted = params.num_accepted[b], drafted = params.length[b];
  const int32_t* arm = params.arm + row * params.table_slots;
  lesson.credited = known_arm(params, arm[cell.slot]);
  if (token_level(params.reward)) {
    const StopReason reason = static_cast<StopReason>(params.stop_reason[b]);
    const int32_t credit = slot_credit(params.reward, reason, cell.slot, accepted, drafted);
    lesson.reward = credit;
    if (credit < 0) lesson.credited = -1;
  } else {
    lesson.reward = round_reward(params, b, drafted_slots(params, b));
  }
  if (lesson.credited >= 0) {
    const double chance = drawn_chance(params, row, lesson.credited, cell.slot);
    lesson.square = credited_square(params.policy, lesson.reward, chance);
    if (lesson.square < 0.0) lesson.credited = -1;
  }
  if (cell.slot > 0) return lesson;
  const int64_t last = drafted < params.table_slots ? drafted : params.table_slots;
  lesson.paying = known_arm(params, arm[last > 0 ? last - 1 : 0]);
  lesson.emitted = static_cast<double>(accepted) + 1.0;
  lesson.spent = bandit_cost(*params.cost_ratio, drafted);
  if (lesson.paying >= 0) remember(params, b, row, lesson.paying);
  return lesson;
}

// Bytes of what rounds say of rules.
inline int64_t losses_bytes(const BanditUpdateParams& params) {
  if (!learns_of_rules(params.policy)) return 0;
  return params.batch * params.arms * static_cast<int64_t>(sizeof(RuleLoss));
}

// What a credit touches is discounted first, all arms of it; a factor of 1 changes nothing.
__device__ inline void credit(const BanditUpdateParams& params, BanditCell cell, int64_t arm,
                              const Lesson* lessons, int32_t number) {
  const double kept = params.params[kDiscount];
  const RuleLoss* losses = learns_of_rules(params.policy) ? params.losses : nullptr;
  const int64_t at = (cell.group * params.arms + arm) * params.table_slots + cell.slot;
  double count = params.count[at], sum = params.reward_sum[at], square = params.reward_sq[at];
#pragma unroll 4
  for (int32_t i = 0; i < number; ++i) {  // without branches: only the sums wait for each other
    const bool own = lessons[i].credited == arm, any = lessons[i].credited >= 0;
    const double factor = any ? kept : 1.0;
    double added = own ? lessons[i].square : 0.0;
    if (losses && any) added = losses[lessons[i].round * params.arms + arm].estimate;
    count = count * factor + (own ? 1.0 : 0.0);
    sum = sum * factor + (own ? lessons[i].reward : 0.0);
    square = square * factor + added;
  }
  params.count[at] = count;
  params.reward_sum[at] = sum;
  params.reward_sq[at] = square;
}

__device__ inline void pay(const BanditUpdateParams& params, int64_t group, int64_t arm,
                           const Lesson* lessons, int32_t number) {
  const double kept = params.params[kDiscount];
  const int64_t at = group * params.arms + arm;
  double tokens = params.tokens[at], cost = params.cost[at];
#pragma unroll 4
  for (int32_t i = 0; i < number; ++i) {
    const bool own = lessons[i].paying == arm;
    const double factor = lessons[i].paying >= 0 ? kept : 1.0;
    tokens = tokens * factor + (own ? lessons[i].emitted : 0.0);
    cost = cost * factor + (own ? lessons[i].spent : 0.0);
  }
  params.tokens[at] = tokens;
  params.cost[at] = cost;
}

// What the group's rounds say of every rule, a thread for each; before a memory moves.
__device__ inline void ask_rules(const BanditUpdateParams& params, BanditCell cell) {
  if (!learns_of_rules(params.policy)) return;
  for (int64_t b = threadIdx.x; b < params.batch; b += kThreads) {
    if (group_of(params, params.groups, b) != cell.group) continue;
    learn_of_rules(params, b, state_row(params.rows, b), params.losses + b * params.arms);
  }
  __syncthreads();
}

// By the whole block; afterwards every thread may read the cell's tables.
__device__ inline void learn(const BanditUpdateParams& params, BanditCell cell) {
  SHARED(Lesson, lessons, [kThreads]);
  ask_rules(params, cell);
  for (int64_t begin = 0; begin < params.batch; begin += kThreads) {
    const Lesson lesson = judge(params, cell, begin + threadIdx.x);
    const bool taught = lesson.credited >= 0 || lesson.paying >= 0;
    const Place place = place_of(taught);  // and the lessons before have been learnt
    if (taught) lessons[place.before] = lesson;
    __syncthreads();
    if (place.count == 0) continue;
    for (int64_t arm = threadIdx.x; arm < params.arms; arm += kThreads) {
      credit(params, cell, arm, lessons, place.count);
      if (cell.slot == 0) pay(params, cell.group, arm, lessons, place.count);
    }
  }
  __syncthreads();
}

}  // namespace tapout::cuda
