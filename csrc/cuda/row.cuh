// A row of logits under its mask, read by warps: a chunk at a time, as the bits it is stored in.
// Lane l of a warp holds eight ids of each of four groups, whatever the type and the alignment.
#pragma once

#include "../core/sampling.h"
#include "elements.cuh"

namespace tapout::cuda {

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

template <class T>
struct Row {
  const T* logits;
  int32_t vocab;
  const int32_t* mask;  // over target ids; null: every id is allowed
  int32_t mask_words;
  const int32_t* d2t;  // target id of a column; null: the column itself
  bool aligned;        // to 16 bytes
};

// Neither masked nor mapped.
template <class T>
__device__ inline Row<T> plain_row(const T* logits, int32_t vocab) {
  const bool aligned = reinterpret_cast<uintptr_t>(logits) % sizeof(Vec16Bytes) == 0;
  return {logits, vocab, nullptr, 0, nullptr, aligned};
}

template <class T>
__device__ inline Row<T> row_at(const Logits& logits, const TokenMask& mask, const int32_t* d2t,
                                int64_t batch, int64_t row) {
  const int64_t offset = batch * logits.batch_stride + row * logits.row_stride;
  const T* first = static_cast<const T*>(logits.data) + offset;
  const int64_t mask_offset = batch * mask.batch_stride + row * mask.row_stride;
  return {first,
          static_cast<int32_t>(logits.vocab),
          mask.bits ? mask.bits + mask_offset : nullptr,
          static_cast<int32_t>(mask.words),
          d2t,
          reinterpret_cast<uintptr_t>(first) % sizeof(Vec16Bytes) == 0};
}

template <class T>
__device__ inline int32_t target_id(const Row<T>& row, int32_t column) {
  return row.d2t ? row.d2t[column] : column;
}

// Whether the mask lets a column of the row through.
template <class T>
__device__ inline bool allows(const Row<T>& row, int32_t column) {
  return !row.mask || mask_allows(row.mask, row.mask_words, target_id(row, column));
}

// -inf outside the row and where masked.
template <class T>
__device__ inline float logit_at(const Row<T>& row, int32_t column) {
  if (column < 0 || column >= row.vocab || !allows(row, column)) return -INFINITY;
  return to_f32(row.logits[column]);
}

// 1/T, kept above 0: at T = inf a -inf logit still weighs nothing.
__device__ inline double inverse_temperature(double temperature) {
  const double inverse = 1.0 / temperature;
  return inverse > 0x1p-126 ? inverse : 0x1p-126;
}

// 1/T as weights take it: w = 2^((z - m) * rate).
__device__ inline float exponent_rate(double inv_temperature) {
  return static_cast<float>(inv_temperature * kLog2E);
}

// What a piece of a row is measured from: its maximum, 0 where nothing in it is finite.
__device__ inline float base_of(float max) { return max == -INFINITY ? 0.0f : max; }

__device__ inline float weight(float logit, float base, float rate) {
  return exp2_approx((logit - base) * rate);
}

// Where the first id of each of the four groups of a chunk is; vocab: nowhere. The groups of a
// filtered row's list need not be neighbours.
struct Place {
  int32_t group[kChunkGroups];
};

__device__ inline Place place_of_chunk(int32_t chunk) {
  const int32_t first = chunk * kChunk;
  return {{first, first + kGroup, first + 2 * kGroup, first + 3 * kGroup}};
}

// Four groups of a list of `count`.
template <class T>
__device__ inline Place place_of_listed(const Row<T>& row, const int32_t* listed, int32_t count,
                                        int32_t batch) {
  Place place;
#pragma unroll
  for (int g = 0; g < kChunkGroups; ++g) {
    const int32_t i = batch * kChunkGroups + g;
    place.group[g] = i < count ? listed[i] * kGroup : row.vocab;
  }
  return place;
}

// A lane's part of a chunk: eight vectors of four ids, or four of eight.
template <class T>
struct LaneChunk {
  static constexpr int kInVector = Elements<T>::kInVector;
  static constexpr int kVectors = kLaneIds / kInVector;
  Vec16Bytes vector[kVectors];

  __device__ float logit(int e) const { return element<T>(vector[e / kInVector], e % kInVector); }
};

// A lane's logits of a chunk.
struct LaneLogits {
  float z[kLaneIds];

  template <class T>
  __device__ explicit LaneLogits(const LaneChunk<T>& chunk) {
#pragma unroll
    for (int e = 0; e < kLaneIds; ++e) z[e] = chunk.logit(e);
  }
};

// The column of element e, which is in group e / 8.
template <class T>
__device__ inline int32_t column_of(const Place& place, int e) {
  constexpr int kInVector = Elements<T>::kInVector, kInGroup = kLaneIds / kChunkGroups;
  const int vector = e % kInGroup / kInVector;
  return place.group[e / kInGroup] + (vector * 32 + lane_id()) * kInVector + e % kInVector;
}

// Elements that do not lie on a boundary of 16 bytes, or beside the end of the row.
template <class T>
__device__ inline Vec16Bytes gather_vector(const Row<T>& row, int32_t column) {
  constexpr int kInVector = Elements<T>::kInVector, kInWord = 4 / sizeof(T);
  Vec16Bytes vector;
#pragma unroll
  for (int i = 0; i < 4; ++i) vector.word[i] = 0;
#pragma unroll
  for (int i = 0; i < kInVector; ++i) {
    uint32_t bits = Elements<T>::kLowest;
    if (column + i < row.vocab) {
      T value = row.logits[column + i];
      bits = 0;
      memcpy(&bits, &value, sizeof value);
    }
    vector.word[i / kInWord] |= bits << i % kInWord * 8 * sizeof(T);
  }
  return vector;
}

// One vector of a row, wherever it lies. -inf outside the row.
template <class T>
__device__ inline Vec16Bytes load_vector(const Row<T>& row, int32_t column) {
  if (row.aligned && column + Elements<T>::kInVector <= row.vocab) {
    return load_streamed(row.logits + column);
  }
  return gather_vector(row, column);
}

// All loads are begun before one is waited for. -inf outside the row; masks come later.
template <class T>
__device__ inline LaneChunk<T> load_chunk(const Row<T>& row, const Place& place) {
  LaneChunk<T> chunk;
  const bool whole = place.group[kChunkGroups - 1] + kGroup <= row.vocab;  // places ascend
  if (row.aligned && whole) {
#pragma unroll
    for (int i = 0; i < chunk.kVectors; ++i) {
      chunk.vector[i] = load_streamed(row.logits + column_of<T>(place, i * chunk.kInVector));
    }
  } else {
#pragma unroll
    for (int i = 0; i < chunk.kVectors; ++i) {
      chunk.vector[i] = load_vector(row, column_of<T>(place, i * chunk.kInVector));
    }
  }
  return chunk;
}

// Bit i: the mask allows column + i, of the ids of one vector.
template <class T>
__device__ inline uint32_t allowed_bits(const Row<T>& row, int32_t column) {
  constexpr int kInVector = Elements<T>::kInVector;
  if (!row.d2t) {
    const int32_t word = column >> 5;
    return word < row.mask_words ? static_cast<uint32_t>(row.mask[word]) >> (column & 31) : 0;
  }
  uint32_t bits = 0;
  for (int i = 0; i < kInVector && column + i < row.vocab; ++i) {
    bits |= uint32_t{mask_allows(row.mask, row.mask_words, row.d2t[column + i])} << i;
  }
  return bits;
}

// Masked elements of a vector become -inf.
template <class T>
__device__ inline void apply_mask(const Row<T>& row, int32_t column, Vec16Bytes& vector) {
  const uint32_t allowed = allowed_bits(row, column);
#pragma unroll
  for (int i = 0; i < Elements<T>::kInVector; ++i) {
    if (!(allowed >> i & 1u)) forbid_element<T>(vector, i);
  }
}

template <class T>
__device__ inline void apply_mask(const Row<T>& row, const Place& place, LaneChunk<T>& chunk) {
#pragma unroll
  for (int i = 0; i < chunk.kVectors; ++i) {
    apply_mask(row, column_of<T>(place, i * chunk.kInVector), chunk.vector[i]);
  }
}

}  // namespace tapout::cuda
