// A row of logits in chunks of 1024 ids, and the one visit of each chunk that gives its maximum,
// minimum, sum and deviation (core/stats.h). A chunk is converted once, into a cache-resident f32
// buffer; what comes after depends on no dtype. Chunks are independent, so threads change nothing.
#pragma once

#include <math.h>

#include "../core/params.h"
#include "../core/sampling.h"
#include "../core/stats.h"
#include "team.h"
#include "vec16.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int64_t kChunk = 1024;       // ids
constexpr int64_t kPieceChunks = 8;    // chunks a worker takes at a time where a row is shared
constexpr float kLowest = -3.402823466e38f;

struct Row {
  const char* data;
  DType dtype;
  int64_t vocab;
};

inline int64_t element_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

inline Row row_at(const Logits& logits, int64_t batch, int64_t row) {
  const int64_t offset = batch * logits.batch_stride + row * logits.row_stride;
  return {static_cast<const char*>(logits.data) + offset * element_bytes(logits.dtype),
          logits.dtype, logits.vocab};
}

inline int64_t num_chunks(int64_t vocab) { return (vocab + kChunk - 1) / kChunk; }

// One chunk in f32, padded with -inf to whole vectors.
struct alignas(64) ChunkBuffer {
  float value[kChunk];
  int64_t vectors;
};

template <class Scalar>
inline void convert(const Scalar* from, int64_t n, ChunkBuffer& to) {
  const int64_t whole = n / kLanes;
  for (int64_t i = 0; i < whole; ++i) store16(to.value + i * kLanes, load16(from + i * kLanes));
  to.vectors = whole;
  if (whole * kLanes == n) return;
  Scalar tail[kLanes] = {};
  memcpy(tail, from + whole * kLanes, (n - whole * kLanes) * sizeof(Scalar));
  store16(to.value + whole * kLanes, load16(tail));
  for (int64_t i = n; i < (whole + 1) * kLanes; ++i) to.value[i] = -INFINITY;
  to.vectors = whole + 1;
}

inline void load_chunk(const Row& row, int64_t chunk, ChunkBuffer& to) {
  const int64_t begin = chunk * kChunk;
  const int64_t n = row.vocab - begin < kChunk ? row.vocab - begin : kChunk;
  const char* from = row.data + begin * element_bytes(row.dtype);
  switch (row.dtype) {
    case DType::kF32: return convert(reinterpret_cast<const float*>(from), n, to);
    case DType::kBf16: return convert(reinterpret_cast<const Bf16*>(from), n, to);
    case DType::kF16: return convert(reinterpret_cast<const F16*>(from), n, to);
  }
}

inline float logit_at(const Row& row, int64_t id) {
  ChunkBuffer buffer;
  load_chunk(row, id / kChunk, buffer);
  return buffer.value[id % kChunk];
}

struct ChunkStats {
  float max;
  float min;  // of the finite logits, +inf if there is none
  float sum;  // relative to max; NaN if the chunk has a NaN
  float dev;
};

// What a visit is for: the argmax alone, sampling, or every statistic.
enum class Visit { kMax, kSum, kAll };

inline Vec16 scaled_weight_argument(Vec16 z, Vec16 max, Vec16 inverse) {
  return mul16(sub16(z, max), inverse);
}

inline float finite_min(const ChunkBuffer& chunk) {
  Vec16 least = set16(INFINITY);
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    const Vec16 z = load16(chunk.value + i * kLanes);
    least = min16(select_ge16(z, set16(kLowest), z, set16(INFINITY)), least);
  }
  return reduce_min16(least) + 0.0f;  // -0 becomes +0: which of the two comes first is not fixed
}

inline float chunk_max(const ChunkBuffer& chunk) {
  Vec16 best = set16(-INFINITY);
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    best = max16(load16(chunk.value + i * kLanes), best);
  }
  return reduce_max16(best) + 0.0f;
}

// Sum of 0 * z over the finite and -inf entries: 0, or NaN if there is a NaN.
inline float nan_probe(const ChunkBuffer& chunk) {
  Vec16 probe = set16(0.0f);
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    const Vec16 bounded = max16(set16(kLowest), load16(chunk.value + i * kLanes));
    probe = fma16(bounded, set16(0.0f), probe);
  }
  return reduce_add16(probe);
}

template <Visit kVisit>
inline ChunkStats chunk_stats(const ChunkBuffer& chunk, float inv_temperature) {
  ChunkStats out = {chunk_max(chunk), INFINITY, 0.0f, 0.0f};
  if (kVisit == Visit::kAll) out.min = finite_min(chunk);
  if (kVisit == Visit::kMax) {
    out.sum = nan_probe(chunk);
    return out;
  }
  const Vec16 max = set16(out.max == -INFINITY ? 0.0f : out.max), inverse = set16(inv_temperature);
  Vec16 sum = set16(0.0f), dev = set16(0.0f);
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    const Vec16 z = load16(chunk.value + i * kLanes);
    const Vec16 x = scaled_weight_argument(z, max, inverse);
    const Vec16 weight = exp16(x);
    sum = add16(sum, weight);
    // x of a -inf logit is -inf, and 0 * -inf is NaN: bounded, it is 0.
    if (kVisit == Visit::kAll) dev = fma16(weight, max16(set16(kExpLow), x), dev);
  }
  out.sum = reduce_add16(sum);
  if (kVisit == Visit::kAll) out.dev = reduce_add16(dev);
  return out;
}

template <Visit kVisit>
inline void visit_row(const Row& row, float inv_temperature, const Team& team, ChunkStats* out) {
  const int64_t chunks = num_chunks(row.vocab);
  const int64_t step = team.workers == 1 ? chunks : kPieceChunks;
  for_each(team, (chunks + step - 1) / step, [&](int64_t, int64_t piece) {
    ChunkBuffer buffer;
    for (int64_t c = piece * step; c < chunks && c < (piece + 1) * step; ++c) {
      load_chunk(row, c, buffer);
      out[c] = chunk_stats<kVisit>(buffer, inv_temperature);
    }
  });
}

inline Moments row_moments(const ChunkStats* chunk, int64_t chunks, double inv_temperature) {
  Moments row = empty_moments();
  for (int64_t c = 0; c < chunks; ++c) {
    const bool finite = chunk[c].sum == chunk[c].sum && chunk[c].max < INFINITY;
    row = merge(row, Moments{chunk[c].max, chunk[c].sum, chunk[c].dev, finite}, inv_temperature);
  }
  return row;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
