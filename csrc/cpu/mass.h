// The weights of a row's processed distribution, chunk by chunk. Memory: two small records per
// chunk of 1024 ids.
#pragma once

#include "row.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct RowScratch {
  ChunkStats* chunk;  // [chunks]; the sums are those of the kept weights
  double* mass;       // [chunks] of the weights a token is drawn from
};

inline RowScratch row_scratch(const Team& team, int64_t vocab) {
  double* mass = reinterpret_cast<double*>(team.scratch);
  return {reinterpret_cast<ChunkStats*>(mass + num_chunks(vocab)), mass};
}

struct RowLaw {
  Row row;
  Status status;
  bool one_hot;            // all mass on argmax
  int64_t argmax;          // where one_hot
  double temperature;      // 0 where it counts as 0
  double inv_temperature;  // 1/T', T' = 1 where T counts as 0
  Moments moments;         // before top-k and top-p
  double kept;             // sum of the kept weights, relative to moments.max
  float cutoff;            // z >= cutoff is kept
  RowScratch scratch;
};

inline float chunk_weight_base(const ChunkStats& chunk) {
  return chunk.max == -INFINITY ? 0.0f : chunk.max;
}

// The kept weights of one chunk relative to the chunk's own maximum.
inline void kept_weights(const RowLaw& law, int64_t chunk, float cutoff, ChunkBuffer& buffer) {
  load_chunk(law.row, chunk, buffer);
  const Vec16 max = set16(chunk_weight_base(law.scratch.chunk[chunk]));
  const Vec16 rate = set16(exponent_rate(law.inv_temperature));
  const Vec16 limit = set16(cutoff), zero = set16(0.0f);
  for (int64_t i = 0; i < buffer.vectors; ++i) {
    const Vec16 z = load16(buffer.value + i * kLanes);
    const Vec16 weight = exp2_16(sub16(z, max), rate);
    store16(buffer.value + i * kLanes, select_ge16(z, limit, weight, zero));
  }
}

inline float buffer_sum(const ChunkBuffer& buffer) {
  BlockSum sum = zero_sum();
  for (int64_t i = 0; i < buffer.vectors; i += kBlock) {
    for (int64_t k = 0; k < kBlock; ++k) {
      sum.part[k] = add16(sum.part[k], load16(buffer.value + (i + k) * kLanes));
    }
  }
  return total(sum);
}

// buffer_sum of the kept weights, without storing them.
inline float kept_sum(const RowLaw& law, int64_t chunk, float cutoff, ChunkBuffer& buffer) {
  load_chunk(law.row, chunk, buffer);
  const Vec16 max = set16(chunk_weight_base(law.scratch.chunk[chunk]));
  const Vec16 rate = set16(exponent_rate(law.inv_temperature));
  const Vec16 limit = set16(cutoff), zero = set16(0.0f);
  BlockSum sum = zero_sum();
  for (int64_t i = 0; i < buffer.vectors; i += kBlock) {
    const float* block = buffer.value + i * kLanes;
    Vec16 best = load16(block);
    for (int64_t k = 1; k < kBlock; ++k) best = max16(best, load16(block + k * kLanes));
    if (count_ge16(best, limit) == 0) continue;
    for (int64_t k = 0; k < kBlock; ++k) {
      const Vec16 z = load16(block + k * kLanes);
      const Vec16 weight = select_ge16(z, limit, exp2_16(sub16(z, max), rate), zero);
      sum.part[k] = add16(sum.part[k], weight);
    }
  }
  return total(sum);
}

// What a chunk's own weights are worth relative to the row's maximum.
inline double chunk_scale(const RowLaw& law, int64_t chunk) {
  const double max = law.scratch.chunk[chunk].max;
  return max == -INFINITY ? 0.0 : exp((max - law.moments.max) * law.inv_temperature);
}

// Makes the chunk sums those of mass{z >= cutoff}; returns the row's. Cutoffs only rise.
inline double keep_from(const RowLaw& law, float cutoff, const Team& team) {
  const int64_t chunks = num_chunks(law.row.vocab);
  ChunkStats* chunk = law.scratch.chunk;
  const int64_t step = team.workers == 1 ? chunks : kPieceChunks;
  for_each(team, (chunks + step - 1) / step, [&](int64_t, int64_t piece) {
    ChunkBuffer buffer;
    for (int64_t c = piece * step; c < chunks && c < (piece + 1) * step; ++c) {
      if (chunk[c].min >= cutoff) continue;  // all of it, or no finite logit at all
      chunk[c].sum = chunk[c].max >= cutoff ? kept_sum(law, c, cutoff, buffer) : 0.0f;
    }
  });
  double total = 0.0;
  for (int64_t c = 0; c < chunks; ++c) {
    if (chunk[c].sum > 0.0f) total += chunk_scale(law, c) * chunk[c].sum;
  }
  return total;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
