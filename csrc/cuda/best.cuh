// The best of some scores (core/tree.h), in ascending order of their index; by the whole block.
#pragma once

#include "../core/tree.h"
#include "block.cuh"

namespace tapout::cuda {

// How many scores above -inf have a key of at least `key`.
template <class ScoreOf>
__device__ inline int32_t count_from(int32_t n, uint32_t key, const ScoreOf& score_of) {
  SHARED(int32_t, sums, [kWarps]);
  int32_t own = 0;
  for (int32_t i = threadIdx.x; i < n; i += kThreads) {
    const float score = score_of(i);
    own += score > -INFINITY && order_key(score) >= key;
  }
  __syncthreads();  // every thread has read the sums before
  return block_sum(own, sums);
}

template <class ScoreOf>
__device__ inline BestScores find_best(int32_t n, int32_t wanted, const ScoreOf& score_of) {
  const int32_t all = count_from(n, 0, score_of);
  if (all <= wanted) return {0, 0, all};
  KeySearch search = {0, 0xFFFFFFFEu};
  while (search.low < search.high) {
    const uint32_t probe = search_probe(search);
    search = search_next(search, probe, count_from(n, probe, score_of) >= wanted);
  }
  return {search.low, wanted - count_from(n, search.low + 1, score_of), wanted};
}

// take(rank, i) for the `wanted` best scores above -inf, or all if there are fewer; how many.
template <class ScoreOf, class Take>
__device__ inline int32_t for_best(int32_t n, int32_t wanted, const ScoreOf& score_of,
                                   const Take& take) {
  SHARED(int32_t, ties, [kWarps]);
  SHARED(int32_t, ranks, [kWarps]);
  const BestScores best = find_best(n, wanted, score_of);
  const int32_t each = ceil_divide(n, kThreads), first = threadIdx.x * each;
  const int32_t last = min(first + each, n);
  const auto each_in = [&](BestScores left, const auto& visit) {
    for (int32_t i = first; i < last; ++i) {
      if (is_best(left, score_of(i))) visit(i);
    }
  };
  int32_t tied = 0, chosen = 0;
  for (int32_t i = first; i < last; ++i) {
    const float score = score_of(i);
    tied += score > -INFINITY && order_key(score) == best.limit;
  }
  const int32_t before = block_running(tied, ties).before;
  const BestScores mine = {best.limit, max(best.ties - before, int64_t{0}), best.count};
  each_in(mine, [&](int32_t) { ++chosen; });
  int32_t rank = block_running(chosen, ranks).before;
  each_in(mine, [&](int32_t i) { take(rank++, i); });
  __syncthreads();
  return static_cast<int32_t>(best.count);
}

}  // namespace tapout::cuda
