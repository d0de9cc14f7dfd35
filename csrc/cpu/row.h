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

constexpr int64_t kChunk = 1024;     // ids
constexpr int64_t kBlock = 4;        // vectors summed side by side: the order of every sum
constexpr int64_t kPieceChunks = 8;  // chunks a worker takes at a time where a row is shared
constexpr float kLowest = -3.402823466e38f;

// The factor of z - m in the base-2 exponent of a weight.
inline float exponent_rate(double inv_temperature) {
  return static_cast<float>(inv_temperature * kLog2E);
}

struct Row {
  const char* data;
  DType dtype;
  int64_t vocab;
  const int32_t* mask;  // over target ids; null: every id is allowed
  int64_t mask_words;
  const int32_t* d2t;  // target id of a column; null: the column itself
};

inline int64_t element_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

inline Row row_at(const Logits& logits, const TokenMask& mask, const int32_t* d2t, int64_t batch,
                  int64_t row) {
  const int64_t offset = batch * logits.batch_stride + row * logits.row_stride;
  const int64_t mask_offset = batch * mask.batch_stride + row * mask.row_stride;
  return {static_cast<const char*>(logits.data) + offset * element_bytes(logits.dtype),
          logits.dtype,
          logits.vocab,
          mask.bits ? mask.bits + mask_offset : nullptr,
          mask.words,
          d2t};
}

inline int64_t target_id(const Row& row, int64_t column) {
  return row.d2t ? row.d2t[column] : column;
}

inline int64_t num_chunks(int64_t vocab) { return (vocab + kChunk - 1) / kChunk; }

// One chunk in f32, -inf where masked, padded with -inf to a whole number of blocks.
struct alignas(64) ChunkBuffer {
  float value[kChunk];
  int64_t vectors;
  Vec16 best;  // per lane: the largest logit, and the smallest
  Vec16 least;
};

// Bit i: the mask allows column begin + i. `begin` is a multiple of 16.
inline uint32_t allowed16(const Row& row, int64_t begin) {
  if (!row.d2t) {
    if (begin >> 5 >= row.mask_words) return 0;
    return static_cast<uint32_t>(row.mask[begin >> 5]) >> (begin & 16) & 0xFFFFu;
  }
  uint32_t bits = 0;
  for (int64_t i = 0; i < kLanes && begin + i < row.vocab; ++i) {
    const uint32_t allowed = mask_allows(row.mask, row.mask_words, row.d2t[begin + i]);
    bits |= allowed << i;
  }
  return bits;
}

// Columns [begin, begin + n) of a row.
template <bool kMasked, class Scalar>
inline void convert(const Row& row, int64_t begin, int64_t n, ChunkBuffer& to) {
  const Scalar* from = reinterpret_cast<const Scalar*>(row.data) + begin;
  const int64_t whole = n / kLanes, rest = n % kLanes;
  Vec16 best = set16(-INFINITY), least = set16(INFINITY);
  const auto take = [&](Vec16 z, int64_t vector) {
    if (kMasked) z = keep16(z, allowed16(row, begin + vector * kLanes));
    store16(to.value + vector * kLanes, z);
    best = max16(z, best);
    least = min16(z, least);
  };
  for (int64_t i = 0; i < whole; ++i) take(load16(from + i * kLanes), i);
  for (int64_t i = n; i < to.vectors * kLanes; ++i) to.value[i] = -INFINITY;
  if (rest > 0) {
    Scalar tail[kLanes] = {};
    float lanes[kLanes];
    memcpy(tail, from + whole * kLanes, rest * sizeof(Scalar));
    store16(lanes, load16(tail));
    for (int64_t i = 0; i < rest; ++i) to.value[whole * kLanes + i] = lanes[i];
    take(load16(to.value + whole * kLanes), whole);
  }
  to.best = best;
  to.least = least;
}

template <bool kMasked>
inline void load_columns(const Row& row, int64_t begin, int64_t n, ChunkBuffer& to) {
  to.vectors = (n + kBlock * kLanes - 1) / (kBlock * kLanes) * kBlock;
  switch (row.dtype) {
    case DType::kF32: return convert<kMasked, float>(row, begin, n, to);
    case DType::kBf16: return convert<kMasked, Bf16>(row, begin, n, to);
    case DType::kF16: return convert<kMasked, F16>(row, begin, n, to);
  }
}

inline void load_chunk(const Row& row, int64_t chunk, ChunkBuffer& to) {
  const int64_t begin = chunk * kChunk;
  const int64_t n = row.vocab - begin < kChunk ? row.vocab - begin : kChunk;
  row.mask ? load_columns<true>(row, begin, n, to) : load_columns<false>(row, begin, n, to);
}

template <class Scalar>
inline float element(const Row& row, int64_t column) {
  return to_f32(reinterpret_cast<const Scalar*>(row.data)[column]);
}

inline float logit_at(const Row& row, int64_t column) {
  if (row.mask && !mask_allows(row.mask, row.mask_words, target_id(row, column))) return -INFINITY;
  switch (row.dtype) {
    case DType::kF32: return element<float>(row, column);
    case DType::kBf16: return element<Bf16>(row, column);
    case DType::kF16: return element<F16>(row, column);
  }
  return -INFINITY;
}

// Sets the masked ones of columns [begin, end) to -inf in a copy of the row.
inline void write_masked(const Row& row, int64_t begin, int64_t end, char* copy) {
  const int64_t bytes = element_bytes(row.dtype);
  uint32_t lowest = 0xFF800000u;
  if (row.dtype == DType::kBf16) lowest = 0xFF80u;
  if (row.dtype == DType::kF16) lowest = 0xFC00u;
  for (int64_t base = begin; base < end; base += kLanes) {
    const uint32_t allowed = allowed16(row, base);
    for (int64_t i = 0; allowed != 0xFFFFu && i < kLanes && base + i < end; ++i) {
      if (!(allowed >> i & 1u)) memcpy(copy + (base + i) * bytes, &lowest, bytes);
    }
  }
}

// The whole row, -inf where masked, in its own dtype.
inline void copy_row(const Row& row, char* to, const Team& team) {
  const int64_t bytes = element_bytes(row.dtype), piece = kPieceChunks * kChunk;
  for_each(team, (row.vocab + piece - 1) / piece, [&](int64_t, int64_t i) {
    const int64_t begin = i * piece;
    const int64_t end = row.vocab - begin < piece ? row.vocab : begin + piece;
    memmove(to + begin * bytes, row.data + begin * bytes, (end - begin) * bytes);
    if (row.mask) write_masked(row, begin, end, to);
  });
}

struct ChunkStats {
  float max;
  float min;  // of the finite logits, +inf if there is none
  float sum;  // relative to max; NaN if the chunk has a NaN
  float dev;  // in powers of two: D / ln 2
};

// What a visit is for: the argmax alone, sampling, or every statistic.
enum class Visit { kMax, kSum, kAll };

// -0 becomes +0 in both: which of the two a maximum returns is not fixed.
inline float chunk_max(const ChunkBuffer& chunk) { return reduce_max16(chunk.best) + 0.0f; }

// The smallest logit that is at least `limit`, +inf if there is none.
inline float smallest_from(const ChunkBuffer& chunk, float limit) {
  Vec16 least = set16(INFINITY);
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    const Vec16 z = load16(chunk.value + i * kLanes);
    least = min16(select_ge16(z, set16(limit), z, set16(INFINITY)), least);
  }
  return reduce_min16(least) + 0.0f;
}

inline float largest(const ChunkBuffer& chunk) {
  Vec16 best = set16(-INFINITY);
  for (int64_t i = 0; i < chunk.vectors; ++i) best = max16(load16(chunk.value + i * kLanes), best);
  return reduce_max16(best) + 0.0f;
}

inline float finite_min(const ChunkBuffer& chunk) {
  const float min = reduce_min16(chunk.least);
  return min == -INFINITY ? smallest_from(chunk, kLowest) : min + 0.0f;
}

// Four sums side by side lose less than one: a small weight is added to fewer large ones.
struct BlockSum {
  Vec16 part[kBlock];
};

inline BlockSum zero_sum() {
  const Vec16 zero = set16(0.0f);
  return {{zero, zero, zero, zero}};
}

inline float total(const BlockSum& sum) {
  return reduce_add16(add16(add16(sum.part[0], sum.part[1]), add16(sum.part[2], sum.part[3])));
}

// Sum of 0 * z over the finite and -inf entries: 0, or NaN if there is a NaN.
inline float nan_probe(const ChunkBuffer& chunk) {
  Vec16 probe = set16(0.0f);
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    const Vec16 bounded = max16(set16(kLowest), load16(chunk.value + i * kLanes));
    probe = add16(probe, mul16(bounded, set16(0.0f)));
  }
  return reduce_add16(probe);
}

template <Visit kVisit>
inline ChunkStats chunk_stats(const ChunkBuffer& chunk, float rate) {
  ChunkStats out = {chunk_max(chunk), INFINITY, 0.0f, 0.0f};
  if (kVisit == Visit::kAll) out.min = finite_min(chunk);
  if (kVisit == Visit::kMax) {
    out.sum = nan_probe(chunk);
    return out;
  }
  const Vec16 max = set16(out.max == -INFINITY ? 0.0f : out.max), scale = set16(rate);
  BlockSum sum = zero_sum(), dev = zero_sum();
  for (int64_t i = 0; i < chunk.vectors; i += kBlock) {
    for (int64_t k = 0; k < kBlock; ++k) {
      const Vec16 offset = sub16(load16(chunk.value + (i + k) * kLanes), max);
      const Vec16 weight = exp2_16(offset, scale);
      sum.part[k] = add16(sum.part[k], weight);
      // The exponent of a -inf logit is -inf, and 0 * -inf is NaN: bounded, it is 0.
      if (kVisit == Visit::kAll) {
        const Vec16 exponent = max16(set16(kExponentLow), mul16(offset, scale));
        dev.part[k] = fma16(weight, exponent, dev.part[k]);
      }
    }
  }
  out.sum = total(sum);
  if (kVisit == Visit::kAll) out.dev = total(dev);
  return out;
}

template <Visit kVisit>
inline void visit_row(const Row& row, float rate, const Team& team, ChunkStats* out) {
  const int64_t chunks = num_chunks(row.vocab);
  const int64_t step = team.workers == 1 ? chunks : kPieceChunks;
  for_each(team, (chunks + step - 1) / step, [&](int64_t, int64_t piece) {
    ChunkBuffer buffer;
    for (int64_t c = piece * step; c < chunks && c < (piece + 1) * step; ++c) {
      load_chunk(row, c, buffer);
      out[c] = chunk_stats<kVisit>(buffer, rate);
    }
  });
}

inline Moments row_moments(const ChunkStats* chunk, int64_t chunks, double inv_temperature) {
  Moments row = empty_moments();
  for (int64_t c = 0; c < chunks; ++c) {
    const bool finite = chunk[c].sum == chunk[c].sum && chunk[c].max < INFINITY;
    const Moments piece = {chunk[c].max, chunk[c].sum, kLn2 * chunk[c].dev, finite};
    row = merge(row, piece, inv_temperature);
  }
  return row;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
