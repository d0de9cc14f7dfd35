// An arm for every row of a cell's group, and how a call that chose arms ends.
#pragma once

#include "bandit_pending.cuh"
#include "finish.cuh"
#include "ops.h"

namespace tapout::cuda {

// Of one call; null what it does not need.
struct ChoiceScratch {
  int32_t* staged;   // [S, B] arms, where the old ones are still read
  int32_t* ranked;   // [S, B]
  double* scores;    // [S, B, A]
  uint32_t* ticket;  // of the blocks that are done
};

__device__ inline void put(const BanditSelectParams& params, const ChoiceScratch& scratch,
                           int64_t slot, int64_t b, int32_t arm) {
  if (scratch.staged) {
    scratch.staged[slot * params.batch + b] = arm;
  } else {
    params.arm[state_row(params.rows, b) * params.tables.table_slots + slot] = arm;
  }
}

__device__ inline void choose_fixed(const BanditSelectParams& params, const ChoiceScratch& scratch,
                                    BanditCell cell) {
  const int32_t arm = fixed_arm(params.tables.params[kPolicyParam]);
  for (int64_t b = threadIdx.x; b < params.batch; b += kThreads) {
    if (group_of(params, params.tables.groups, b) != cell.group) continue;
    put(params, scratch, cell.slot, b, arm);
  }
}

__device__ inline void choose_pending(const BanditSelectParams& params,
                                      const ChoiceScratch& scratch, BanditCell cell) {
  SHARED(double, nearby, [kScoresNearby]);
  const Members members = count_members(params, params.tables.groups, cell.group);
  if (members.count == 0) return;
  const int64_t arms = params.tables.arms, first = cell.slot * params.batch + members.before;
  const bool fits = members.count * arms <= kScoresNearby;
  double* scores = fits ? nearby : scratch.scores + first * arms;
  int32_t* ranked = scratch.ranked + first;
  score_pulls(params, cell, members.count, scores);
  __syncthreads();
  rank_pulls(scores, members.count, static_cast<uint32_t>(arms), ranked);
  int32_t taken = 0;
  for (int64_t begin = 0; begin < params.batch; begin += kThreads) {
    const int64_t b = begin + threadIdx.x;
    const bool mine = group_of(params, params.tables.groups, b) == cell.group;
    const Place place = place_of(mine);  // and the ranks are there
    if (mine) put(params, scratch, cell.slot, b, ranked[taken + place.before]);
    taken += place.count;
  }
}

// ---- from the state as it is ------------------------------------------------------------------

__device__ inline double drawn_score(const BanditSelectParams& params, const ArmValue& arm,
                                     const BanditNoise& noise, int64_t word) {
  switch (params.policy) {
    case Policy::kThompsonGaussian:
      return thompson_gaussian(arm, noise, word, params.tables.params[kPolicyParam]);
    case Policy::kThompsonBeta: return thompson_beta(arm, noise, word);
    default: return greedy_score(arm);
  }
}

struct Best {
  double score;
  int32_t arm;
};

// Every `width`-th arm of one row, from `lane` on.
__device__ inline Best best_of(const BanditSelectParams& params, double rate, BanditCell cell,
                               int64_t b, int lane, int width) {
  const int64_t arms = params.tables.arms, word = first_draw(arms, cell.slot, 0);
  const BanditNoise noise = {*params.seed, static_cast<uint32_t>(b),
                             static_cast<uint32_t>(*params.calls)};
  Best best = {-INFINITY, static_cast<int32_t>(arms)};
  for (int64_t a = lane; a < arms; a += width) {
    const ArmValue value = value_of(params, rate, cell, a);
    const double score = comparable(drawn_score(params, value, noise, word + a * kArmDraws));
    if (score > best.score || best.arm == arms) best = {score, static_cast<int32_t>(a)};
  }
  if (params.policy != Policy::kEpsilonGreedy) return best;
  const double epsilon = params.tables.params[kPolicyParam];
  const int64_t explored = explored_arm(noise, word, epsilon, arms);
  if (explored >= 0) best = {INFINITY, static_cast<int32_t>(explored)};
  return best;
}

// The rows `list`: `width` lanes, a power of two, draw for a row.
__device__ inline void draw_rows(const BanditSelectParams& params, const ChoiceScratch& scratch,
                                 BanditCell cell, const int64_t* list, int32_t count) {
  int width = 1;
  while (width < 32 && width < params.tables.arms) width *= 2;
  const double rate = throughput_rate(params, cell.group);
  const int lane = threadIdx.x % width;
  for (int32_t first = 0; first < count; first += kThreads / width) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x) / width;
    Best best = {-INFINITY, static_cast<int32_t>(params.tables.arms)};
    if (i < count) best = best_of(params, rate, cell, list[i], lane, width);
    for (int mask = width / 2; mask > 0; mask /= 2) {
      const Best other = {shuffle_xor(best.score, mask), shuffle_xor(best.arm, mask)};
      const bool first_of_equal = other.score == best.score && other.arm < best.arm;
      if (other.score > best.score || first_of_equal) best = other;
    }
    if (i < count && lane == 0) put(params, scratch, cell.slot, list[i], best.arm);
  }
}

__device__ inline void choose_drawn(const BanditSelectParams& params, const ChoiceScratch& scratch,
                                    BanditCell cell) {
  SHARED(int64_t, list, [kThreads]);
  for (int64_t begin = 0; begin < params.batch; begin += kThreads) {
    const int64_t b = begin + threadIdx.x;
    const bool mine = group_of(params, params.tables.groups, b) == cell.group;
    const Place place = place_of(mine);  // and the list before has been read
    if (mine) list[place.before] = b;
    __syncthreads();
    if (place.count > 0) draw_rows(params, scratch, cell, list, place.count);
  }
}

// A thread for each row: its distribution is where the round will look for it.
__device__ inline void choose_weighted(const BanditSelectParams& params,
                                       const ChoiceScratch& scratch, BanditCell cell) {
  const int64_t slots = params.tables.table_slots, arms = params.tables.arms;
  for (int64_t b = threadIdx.x; b < params.batch; b += kThreads) {
    if (group_of(params, params.tables.groups, b) != cell.group) continue;
    double* prob = params.arm_prob + state_row(params.rows, b) * arms * slots + cell.slot;
    arm_probabilities(params.tables, params.policy, cell.group, cell.slot, prob, slots);
    const BanditNoise noise = {*params.seed, static_cast<uint32_t>(b),
                               static_cast<uint32_t>(*params.calls)};
    const double uniform = bandit_uniforms(noise, first_draw(arms, cell.slot, 0)).first;
    const int64_t arm = drawn_by_weight(prob, slots, arms, uniform);
    put(params, scratch, cell.slot, b, static_cast<int32_t>(arm));
  }
}

__device__ inline void choose(const BanditSelectParams& params, const ChoiceScratch& scratch,
                              BanditCell cell) {
  switch (params.policy) {
    case Policy::kFixed: choose_fixed(params, scratch, cell); break;
    case Policy::kUcb1:
    case Policy::kUcbTuned:
    case Policy::kUcbSpec: choose_pending(params, scratch, cell); break;
    case Policy::kExp3:
    case Policy::kHedge:
    case Policy::kNormalHedge: choose_weighted(params, scratch, cell); break;
    default: choose_drawn(params, scratch, cell);
  }
}

// ---- the end ----------------------------------------------------------------------------------

// Nobody reads the old arms any more.
__device__ inline void publish(const BanditSelectParams& params, const int32_t* staged) {
  const int64_t slots = params.tables.table_slots;
  for (int64_t i = threadIdx.x; i < params.batch * slots; i += kThreads) {
    const int64_t b = i / slots, slot = i % slots;
    if (group_of(params, params.tables.groups, b) < 0) continue;
    params.arm[state_row(params.rows, b) * slots + slot] =
        load_fresh(staged + slot * params.batch + b);
  }
}

// One call more, when every block has read the number of calls.
__device__ inline void finish_choice(const BanditSelectParams& params,
                                     const ChoiceScratch& scratch) {
  if (!arrives_last(scratch.ticket, gridDim.x)) return;
  if (scratch.staged) publish(params, scratch.staged);
  if (threadIdx.x == 0) *params.calls += 1;
}

// ---- scratch ----------------------------------------------------------------------------------

struct ChoiceShape {
  int64_t staged, ranked, scores;  // numbers of elements
};

inline ChoiceShape choice_shape(const BanditSelectParams& params, bool learns) {
  const int64_t slots = params.tables.table_slots, each = slots * params.batch;
  const bool pending = counts_pending(params.policy);
  return {learns && slots > 1 ? each : 0, pending ? each : 0,
          pending ? each * params.tables.arms : 0};
}

inline WorkspaceSize choice_workspace(const BanditSelectParams& params, bool learns) {
  const ChoiceShape shape = choice_shape(params, learns);
  return {shape.scores * 8 + (shape.ranked + shape.staged) * 4, 1};
}

inline ChoiceScratch choice_scratch(const BanditSelectParams& params, bool learns,
                                    Workspace workspace) {
  const ChoiceShape shape = choice_shape(params, learns);
  double* scores = reinterpret_cast<double*>(workspace.bytes);
  int32_t* ranked = reinterpret_cast<int32_t*>(scores + shape.scores);
  return {shape.staged > 0 ? ranked + shape.ranked : nullptr, ranked, scores, workspace.tickets};
}

// Entries of a cell are counted in 32 bits.
inline bool too_many_entries(const BanditSelectParams& params) {
  return params.batch * params.tables.arms > INT32_MAX;
}

}  // namespace tapout::cuda
