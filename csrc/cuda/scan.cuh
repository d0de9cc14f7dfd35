// The one pass over a row. Each chunk leaves a record, and the maxima of its groups where filters
// will search the row. Chunks do not depend on each other: which warp reads which changes nothing.
#pragma once

#include "block.cuh"
#include "gumbel.cuh"
#include "scratch.h"

namespace tapout::cuda {

constexpr float kLowestExponent = -1e6f;  // 0 * -inf would be NaN; 2^-1e6 is 0 already

__device__ inline float warp_largest(float value) { return key_value(warp_max(order_key(value))); }

// The best of the words of a lane by `better` (Elements), of one group or of the whole chunk; NaN
// only where there is nothing else.
template <class T, class Better>
__device__ inline uint32_t best_word(const LaneChunk<T>& chunk, int first, int count,
                                     const Better& better) {
  uint32_t best[4];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const uint32_t word = chunk.vector[(first + i) / 4].word[(first + i) % 4];
    best[i % 4] = i < 4 ? word : better(best[i % 4], word);
  }
  return better(better(best[0], best[1]), better(best[2], best[3]));
}

template <class T>
__device__ inline float largest_of(uint32_t word) {
  Vec16Bytes vector = {};
  vector.word[0] = word;
  const float low = element<T>(vector, 0);
  return fmaxf(-INFINITY, sizeof(T) == 4 ? low : fmaxf(low, element<T>(vector, 1)));
}

template <class T>
__device__ inline float smallest_of(uint32_t word) {
  Vec16Bytes vector = {};
  vector.word[0] = word;
  const float low = element<T>(vector, 0);
  return fminf(INFINITY, sizeof(T) == 4 ? low : fminf(low, element<T>(vector, 1)));
}

// The chunk's maximum; with filters every group's too.
template <class T>
__device__ inline float chunk_max(const LaneChunk<T>& chunk, int32_t index, int32_t groups,
                                  float* group_maxima) {
  constexpr int kWords = LaneChunk<T>::kVectors * 4, kGroupWords = kWords / kChunkGroups;
  if (!group_maxima) {
    return warp_largest(largest_of<T>(best_word(chunk, 0, kWords, Elements<T>::larger)));
  }
  float all = -INFINITY, mine = -INFINITY;
#pragma unroll
  for (int g = 0; g < kChunkGroups; ++g) {
    const uint32_t word = best_word(chunk, g * kGroupWords, kGroupWords, Elements<T>::larger);
    const float largest = warp_largest(largest_of<T>(word));
    all = fmaxf(all, largest);
    if (lane_id() == g) mine = largest;
  }
  const int32_t group = index * kChunkGroups + lane_id();
  if (lane_id() < kChunkGroups && group < groups) group_maxima[group] = mine;
  return all;
}

// The smallest logit above -inf, +inf if there is none.
template <class T>
__device__ inline float smallest_finite(const LaneChunk<T>& chunk) {
  constexpr int kWords = LaneChunk<T>::kVectors * 4;
  float least = smallest_of<T>(best_word(chunk, 0, kWords, Elements<T>::smaller));
  if (warp_ballot(least == -INFINITY) != 0) {
    least = INFINITY;
#pragma unroll
    for (int e = 0; e < kLaneIds; ++e) {
      const float z = chunk.logit(e);
      least = fminf(least, z > -INFINITY ? z : INFINITY);
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

constexpr float kHuge = 0x1p24f;  // below, what rounding loses of a product is at most 1/2

// Sets sum and dev relative to record.max; four sums side by side, combined in a fixed tree.
//   exponents are fma(z, rate, -c), c = m * rate rounded: one rounding each. What c lost is the
//   same for all of a chunk, and is put back into the sums. A huge maximum is taken out first: it
//   could lose more than an exponent holds.
template <bool kDev>
__device__ inline void sum_logits(LaneLogits& lane, float rate, Record& record) {
  float base = base_of(record.max), center = base * rate;
  if (!(fabsf(center) < kHuge)) {
#pragma unroll
    for (int e = 0; e < kLaneIds; ++e) lane.z[e] -= base;
    base = center = 0.0f;
  }
  float sum[4] = {}, dev[4] = {};
#pragma unroll
  for (int e = 0; e < kLaneIds; ++e) {
    const float exponent = fmaf(lane.z[e], rate, -center), w = exp2_approx(exponent);
    sum[e % 4] += w;
    if (kDev) dev[e % 4] = fmaf(w, fmaxf(exponent, kLowestExponent), dev[e % 4]);
  }
  const float lost = fmaf(base, rate, -center), factor = exp2_approx(-lost);
  const float all = warp_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  record.sum = factor * all;
  record.dev = 0.0f;
  if (!kDev) return;
  record.dev = factor * fmaf(-lost, all, warp_sum((dev[0] + dev[1]) + (dev[2] + dev[3])));
}

// Chunks [first, last) of a row, as far as it has them, by the warps of a block. The next chunk is
// on its way while one is summed. `kept` takes a copy of the masked logits, if given.
template <class T, bool kStatistics, bool kGumbel>
__device__ inline void scan_row(const Row<T>& row, const RowSampling& sampling,
                                const RowScratch& scratch, const Noise& noise, T* kept,
                                int32_t first, int32_t last) {
  last = min(last, num_chunks(row.vocab));
  const float rate = exponent_rate(inverse_temperature(sampling.temperature));
  int32_t index = first + warp_id();
  if (index >= last) return;
  LaneChunk<T> chunk = load_chunk(row, place_of_chunk(index));
  for (; index < last; index += kWarps) {
    const Place place = place_of_chunk(index);
    if (row.mask) apply_mask(row, place, chunk);
    if (kept) keep_chunk(chunk, place, row.vocab, kept);
    Record record = {-INFINITY, 0.0f, 0.0f, INFINITY};
    record.max = chunk_max(chunk, index, num_groups(row.vocab), scratch.groups);
    if (kStatistics || scratch.groups) record.min = smallest_finite(chunk);
    LaneLogits lane(chunk);
    // Noise takes registers that the next chunk would need.
    if (kGumbel && !sampling.argmax && !sampling.filtered()) {
      const ChunkWinner winner =
          best_of_chunk(row, noise, place, lane, base_of(record.max), rate, -INFINITY);
      if (lane_id() == 0) scratch.winners[index] = winner;
    }
    chunk = LaneChunk<T>{};  // none of it is needed: registers need not be copied
    if (index + kWarps < last) chunk = load_chunk(row, place_of_chunk(index + kWarps));
    sum_logits<kStatistics>(lane, rate, record);
    if (lane_id() == 0) scratch.records[index] = record;
  }
}

// The same chunks as they came, without mask and at temperature 1: for `raw` log-probabilities.
template <class T>
__device__ inline void scan_raw(const Row<T>& row, const RowScratch& scratch, int32_t first,
                                int32_t last) {
  last = min(last, num_chunks(row.vocab));
  for (int32_t index = first + warp_id(); index < last; index += kWarps) {
    const LaneChunk<T> chunk = load_chunk(row, place_of_chunk(index));
    Record record = {chunk_max(chunk, index, 0, nullptr), 0.0f, 0.0f, INFINITY};
    LaneLogits lane(chunk);
    sum_logits<false>(lane, exponent_rate(1.0), record);
    if (lane_id() == 0) scratch.raw[index] = {record.max, record.sum};
  }
}

}  // namespace tapout::cuda
