// The one pass over a row. Each chunk leaves a record, and the maxima of its groups where filters
// will search the row. Chunks do not depend on each other: which warp reads which changes nothing.
#pragma once

#include "block.cuh"
#include "gumbel.cuh"
#include "scratch.h"

namespace tapout::cuda {

constexpr float kLowestExponent = -1e6f;  // 0 * -inf would be NaN; 2^-1e6 is 0 already

// Largest logit of each group, in this lane; a NaN is none.
template <class T>
struct LaneMaxima {
  float group[kChunkGroups];

  __device__ explicit LaneMaxima(const LaneChunk<T>& chunk) {
    constexpr int kInGroup = kLaneIds / kChunkGroups;
#pragma unroll
    for (int g = 0; g < kChunkGroups; ++g) {
      group[g] = -INFINITY;
#pragma unroll
      for (int e = 0; e < kInGroup; ++e) group[g] = fmaxf(group[g], chunk.logit(g * kInGroup + e));
    }
  }
  __device__ float all() const {
    return fmaxf(fmaxf(group[0], group[1]), fmaxf(group[2], group[3]));
  }
};

__device__ inline float warp_largest(float value) { return key_value(warp_max(order_key(value))); }

// The chunk's maximum; with filters every group's too.
template <class T>
__device__ inline float chunk_max(const LaneChunk<T>& chunk, int32_t index, int32_t groups,
                                  float* group_maxima) {
  const LaneMaxima<T> lane(chunk);
  if (!group_maxima) return warp_largest(lane.all());
  float all = -INFINITY, mine = -INFINITY;
#pragma unroll
  for (int g = 0; g < kChunkGroups; ++g) {
    const float largest = warp_largest(lane.group[g]);
    all = fmaxf(all, largest);
    if (lane_id() == g) mine = largest;
  }
  const int32_t group = index * kChunkGroups + lane_id();
  if (lane_id() < kChunkGroups && group < groups) group_maxima[group] = mine;
  return all;
}

// Sums relative to `max`; four side by side, combined in a fixed tree.
template <class T, bool kDev>
__device__ inline void sum_chunk(const LaneChunk<T>& chunk, float max, float rate, Record& record) {
  const float base = base_of(max);
  float sum[4] = {}, dev[4] = {};
#pragma unroll
  for (int e = 0; e < kLaneIds; ++e) {
    const float exponent = (chunk.logit(e) - base) * rate, w = exp2_approx(exponent);
    sum[e % 4] += w;
    if (kDev) dev[e % 4] = fmaf(w, fmaxf(exponent, kLowestExponent), dev[e % 4]);
  }
  record.max = max;
  record.sum = warp_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  record.dev = kDev ? warp_sum((dev[0] + dev[1]) + (dev[2] + dev[3])) : 0.0f;
}

// The smallest logit above -inf, +inf if there is none.
template <class T>
__device__ inline float smallest_finite(const LaneChunk<T>& chunk) {
  float least = INFINITY;
#pragma unroll
  for (int e = 0; e < kLaneIds; ++e) least = fminf(least, chunk.logit(e));
  if (warp_ballot(least == -INFINITY) != 0) {
    least = INFINITY;
#pragma unroll
    for (int e = 0; e < kLaneIds; ++e) {
      const float z = chunk.logit(e);
      if (z > -INFINITY) least = fminf(least, z);
    }
  }
  return key_value(warp_min(order_key(least)));
}

// A copy of the chunk as it is now, masked entries at -inf.
template <class T>
__device__ inline void keep_chunk(const LaneChunk<T>& chunk, const Place& place, int32_t vocab,
                                  T* kept) {
  const bool aligned = reinterpret_cast<uintptr_t>(kept) % sizeof(Vec16Bytes) == 0;
#pragma unroll
  for (int i = 0; i < chunk.kVectors; ++i) {
    const int32_t column = column_of<T>(place, i * chunk.kInVector);
    if (aligned && column + chunk.kInVector <= vocab) {
      store_streamed(kept + column, chunk.vector[i]);
      continue;
    }
#pragma unroll
    for (int k = 0; k < chunk.kInVector; ++k) {
      if (column + k < vocab) store_element(kept + column + k, chunk.vector[i], k);
    }
  }
}

// What one chunk leaves.
template <class T, bool kStatistics, bool kGumbel>
__device__ inline void scan_chunk(const Row<T>& row, const RowSampling& sampling,
                                  const RowScratch& scratch, const Noise& noise, float rate,
                                  int32_t index, LaneChunk<T>& chunk, T* kept) {
  const Place place = place_of_chunk(index);
  Record record;
  if (scratch.raw) {
    sum_chunk<T, false>(chunk, warp_largest(LaneMaxima<T>(chunk).all()), exponent_rate(1.0),
                        record);
    if (lane_id() == 0) scratch.raw[index] = {record.max, record.sum};
  }
  if (row.mask) apply_mask(row, place, chunk);
  if (kept) keep_chunk(chunk, place, row.vocab, kept);
  const float max = chunk_max(chunk, index, num_groups(row.vocab), scratch.groups);
  sum_chunk<T, kStatistics>(chunk, max, rate, record);
  record.min = kStatistics || scratch.groups ? smallest_finite(chunk) : INFINITY;
  if (lane_id() == 0) scratch.records[index] = record;
  if (kGumbel && !sampling.argmax && !sampling.filtered()) {
    const ChunkWinner winner =
        best_of_chunk(row, noise, place, chunk, base_of(max), rate, -INFINITY);
    if (lane_id() == 0) scratch.winners[index] = winner;
  }
}

// Chunks [first, last) of a row, as far as it has them, by the warps of a block. The next chunk is
// on its way while one is summed. `kept` takes a copy of the masked logits, if given.
template <class T, bool kStatistics, bool kGumbel>
__device__ inline void scan_row(const Row<T>& row, const RowSampling& sampling,
                                const RowScratch& scratch, const Noise& noise, T* kept,
                                int32_t first, int32_t last) {
  last = min(last, num_chunks(row.vocab));
  int32_t index = first + warp_id();
  if (index >= last) return;
  LaneChunk<T> next = load_chunk(row, place_of_chunk(index));
  const float rate = exponent_rate(1.0 / sampling.temperature);
  while (index < last) {
    LaneChunk<T> chunk = next;
    if (index + kWarps < last) next = load_chunk(row, place_of_chunk(index + kWarps));
    scan_chunk<T, kStatistics, kGumbel>(row, sampling, scratch, noise, rate, index, chunk, kept);
    index += kWarps;
  }
}

}  // namespace tapout::cuda
