// Choices of ucb1, ucb_tuned and ucbspec: rows choose in order, a pull counts in later scores.
// An arm's score never rises with its pulls, so the choices of n rows are the n best of all
// (arm, j-th pull), by score, then arm, then j: a merge of as many falling sequences as there are
// arms. Each entry finds its rank alone: j, and for every other arm the number of pulls that go
// before, by bisection. The group's r-th row takes the arm of rank r.
#pragma once

#include "bandit_rows.cuh"

namespace tapout::cuda {

constexpr int32_t kScoresNearby = 2048;  // scores of a cell that fit into shared memory
constexpr int kRivals = 4;               // arms that are bisected side by side

// A score that is NaN counts as the best, like the maximum of the reference.
__device__ inline double comparable(double score) { return score == score ? score : INFINITY; }

__device__ inline double throughput_rate(const BanditSelectParams& params, int64_t group) {
  return params.reward == Reward::kThroughput ? token_rate(params.tables, group) : 1.0;
}

__device__ inline ArmValue value_of(const BanditSelectParams& params, double rate, BanditCell cell,
                                    int64_t arm) {
  return arm_value(params.tables, params.reward, rate, static_cast<double>(params.slots),
                   cell.group, arm, cell.slot);
}

// After `added` pulls of this call. A negative exploration would let it rise with them: then
// whoever is ahead stays ahead, which is what the score of the first completed pull for all of them
// says.
__device__ inline double pending_score(const ArmValue& arm, double added, double log_t,
                                       Policy policy, double param, double arms) {
  double pulls = arm.count + added;
  if (policy == Policy::kUcbTuned) {
    return comparable(ucb_tuned_score(arm.mean, arm.variance, pulls, log_t));
  }
  if (policy == Policy::kUcbSpec) {
    return comparable(ucbspec_score(arm.mean, pulls, log_t, arms, param));
  }
  const double first = arm.count > 0.0 ? arm.count : 1.0;
  if (param < 0.0 && pulls > first) pulls = first;
  return comparable(ucb1_score(arm.mean, pulls, log_t, param));
}

// scores[arm * rows + j] of the j-th pull of this call.
__device__ inline void score_pulls(const BanditSelectParams& params, BanditCell cell, int32_t rows,
                                   double* scores) {
  const BanditTables& tables = params.tables;
  const double rate = throughput_rate(params, cell.group), param = tables.params[kPolicyParam];
  double pulls = tables.count[bandit_cell(tables, cell.group, 0, cell.slot)];
  for (int64_t a = 1; a < tables.arms; ++a) {
    pulls += tables.count[bandit_cell(tables, cell.group, a, cell.slot)];
  }
  const double log_t = log_pulls(pulls + rows);
  const uint32_t entries = static_cast<uint32_t>(tables.arms) * rows;
  for (uint32_t entry = threadIdx.x; entry < entries; entry += kThreads) {
    const ArmValue arm = value_of(params, rate, cell, entry / rows);
    scores[entry] = pending_score(arm, entry % rows, log_t, params.policy, param,
                                  static_cast<double>(tables.arms));
  }
}

// Pulls of the arms first..first + kRivals - 1, but `arm`, that go before a pull of `arm` with this
// score. `longest`: a power of two, more than half of rows.
__device__ inline uint32_t pulls_before(const double* scores, uint32_t rows, uint32_t longest,
                                        uint32_t arms, uint32_t first, uint32_t arm, double score) {
  uint32_t ahead[kRivals] = {};
  for (uint32_t step = longest; step > 0; step /= 2) {
#pragma unroll
    for (uint32_t k = 0; k < kRivals; ++k) {
      const uint32_t rival = first + k, reach = ahead[k] + step;
      if (rival >= arms || rival == arm || reach > rows) continue;
      const double other = scores[rival * rows + reach - 1];
      if (other > score || (other == score && rival < arm)) ahead[k] = reach;
    }
  }
  uint32_t total = 0;
#pragma unroll
  for (uint32_t k = 0; k < kRivals; ++k) total += ahead[k];
  return total;
}

// ranked[r] = the arm of rank r.
__device__ inline void rank_pulls(const double* scores, uint32_t rows, uint32_t arms,
                                  int32_t* ranked) {
  uint32_t longest = 1;
  while (longest <= rows / 2) longest *= 2;
  for (uint32_t entry = threadIdx.x; entry < arms * rows; entry += kThreads) {
    const uint32_t arm = entry / rows;
    uint32_t rank = entry % rows;
    for (uint32_t first = 0; first < arms && rank < rows; first += kRivals) {
      rank += pulls_before(scores, rows, longest, arms, first, arm, scores[entry]);
    }
    if (rank < rows) ranked[rank] = static_cast<int32_t>(arm);
  }
}

}  // namespace tapout::cuda
