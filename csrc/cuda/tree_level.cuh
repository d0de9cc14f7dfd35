// The end of a level of a drafted tree: who goes on, and with which rows. By the last block of a
// request, which reads what the others have written past its own cache.
#pragma once

#include "best.cuh"

namespace tapout::cuda {

struct LevelNodes {
  int32_t begin;
  int32_t end;
};

__device__ inline LevelNodes level_nodes(const TreeExpandParams& params) {
  const int64_t begin = params.child_start[0], end = params.child_start[params.beam_rows];
  const int64_t low = max(begin, int64_t{0}), high = min(end, params.nodes);
  return {static_cast<int32_t>(low), static_cast<int32_t>(max(low, high))};
}

// Whether there is a node in the level.
__device__ inline bool level_grew(const TreeExpandParams& params, int64_t b) {
  SHARED(int32_t, sums, [kWarps]);
  const LevelNodes level = level_nodes(params);
  int32_t found = 0;
  for (int32_t i = level.begin + threadIdx.x; i < level.end; i += kThreads) {
    found += load_fresh(params.tokens + b * params.nodes + i) >= 0;
  }
  return block_sum(found, sums) > 0;
}

// The best children; the rest of the beam is kAbsent.
__device__ inline void best_children(const TreeExpandParams& params, int64_t b, int32_t* beam) {
  SHARED(float, nearby, [kMostNodes]);
  const LevelNodes level = level_nodes(params);
  const float* score = params.score + b * params.nodes + level.begin;
  const int32_t n = level.end - level.begin;
  for (int32_t i = threadIdx.x; i < n && n <= kMostNodes; i += kThreads) {
    nearby[i] = load_fresh(score + i);
  }
  __syncthreads();
  const int32_t wanted = static_cast<int32_t>(params.next_rows);
  const int32_t count = for_best(
      n, wanted, [&](int32_t i) { return n <= kMostNodes ? nearby[i] : load_fresh(score + i); },
      [&](int32_t rank, int32_t i) { beam[rank] = level.begin + i; });
  for (int32_t i = count + threadIdx.x; i < wanted; i += kThreads) beam[i] = kAbsent;
  __syncthreads();
}

__device__ inline int32_t row_of_child(const TreeExpandParams& params, int32_t node) {
  for (int32_t w = 0; w < params.beam_rows; ++w) {
    if (node >= params.child_start[w] && node < params.child_start[w + 1]) return w;
  }
  return 0;
}

__device__ inline void next_level(const TreeExpandParams& params, int64_t b, bool drafting) {
  int32_t* beam = params.next_beam + b * params.next_rows;
  if (!params.next_node && drafting) best_children(params, b, beam);
  for (int32_t i = threadIdx.x; i < params.next_rows; i += kThreads) {
    int32_t node = kAbsent;
    if (drafting) node = params.next_node ? params.next_node[i] : beam[i];
    if (node < 0 || node >= params.nodes) node = kAbsent;
    const int64_t token = node < 0 ? 0 : load_fresh(params.tokens + b * params.nodes + node);
    beam[i] = node;
    params.next_row[b * params.next_rows + i] = node < 0 ? 0 : row_of_child(params, node);
    params.next_token[b * params.next_rows + i] = token < 0 ? 0 : token;
  }
  __syncthreads();
}

// ln sum e^score of the next level's rows; -inf if there is none.
__device__ inline double beam_logsumexp(const TreeExpandParams& params, int64_t b) {
  SHARED(uint32_t, tops, [kWarps]);
  SHARED(double, sums, [kWarps]);
  const int32_t* beam = params.next_beam + b * params.next_rows;
  const auto score_of = [&](int32_t i) {
    return beam[i] < 0 ? -INFINITY : load_fresh(params.score + b * params.nodes + beam[i]);
  };
  uint32_t lowest = ~order_key(-INFINITY);  // of inverted keys: of the largest score
  for (int32_t i = threadIdx.x; i < params.next_rows; i += kThreads) {
    const float score = score_of(i);
    if (score > -INFINITY) lowest = min(lowest, ~order_key(score));
  }
  const double most = key_value(~block_min(lowest, tops));
  double sum = 0.0;
  for (int32_t i = threadIdx.x; i < params.next_rows; i += kThreads) {
    const float score = score_of(i);
    if (score > -INFINITY) sum += exp(score - most);
  }
  sum = block_sum(sum, sums);
  return most == -INFINITY ? most : most + log(sum);
}

__device__ inline void end_level(const TreeExpandParams& params, int64_t b, bool drafting) {
  const bool more = drafting && level_grew(params, b);
  if (params.next_beam) next_level(params, b, drafting);
  if (!drafting) return;
  bool goes_on = more;
  if (params.threshold && params.next_beam) {
    goes_on = !(beam_logsumexp(params, b) < params.threshold[b]) && more;
  }
  if (threadIdx.x != 0) return;
  params.depth[b] += more;
  params.active[b] = goes_on;
}

}  // namespace tapout::cuda
