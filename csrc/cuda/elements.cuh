// The element types of logits: sixteen bytes at a time, and one at a time.
#pragma once

#include <math.h>

#include "../core/params.h"
#include "device.h"
#include "sizes.h"

namespace tapout::cuda {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

__device__ inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

__device__ inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// key_precision (core/sampling.h), the bits of -inf, and the maxima and minima of the elements of
// two words side by side: NaN loses.
template <class T>
struct Elements;

template <>
struct Elements<float> {
  static constexpr int kInVector = 4;
  static constexpr int kPrecision = 0;
  static constexpr uint32_t kLowest = 0xFF800000u;

  __device__ static uint32_t larger(uint32_t left, uint32_t right) {
    return bits_of_float(fmaxf(float_of_bits(left), float_of_bits(right)));
  }
  __device__ static uint32_t smaller(uint32_t left, uint32_t right) {
    return bits_of_float(fminf(float_of_bits(left), float_of_bits(right)));
  }
};
template <>
struct Elements<Bf16> {
  static constexpr int kInVector = 8;
  static constexpr int kPrecision = 16;
  static constexpr uint32_t kLowest = 0xFF80u;

  __device__ static uint32_t larger(uint32_t left, uint32_t right) {
    return max_bf16_pairs(left, right);
  }
  __device__ static uint32_t smaller(uint32_t left, uint32_t right) {
    return min_bf16_pairs(left, right);
  }
};
template <>
struct Elements<F16> {
  static constexpr int kInVector = 8;
  static constexpr int kPrecision = 13;
  static constexpr uint32_t kLowest = 0xFC00u;

  __device__ static uint32_t larger(uint32_t left, uint32_t right) {
    return max_half_pairs(left, right);
  }
  __device__ static uint32_t smaller(uint32_t left, uint32_t right) {
    return min_half_pairs(left, right);
  }
};

__device__ inline float to_f32(float value) { return value; }
__device__ inline float to_f32(Bf16 value) { return float_of_bits(uint32_t{value.bits} << 16); }
__device__ inline float to_f32(F16 value) { return half_to_float(value.bits); }

// Element i of sixteen bytes; i is known at compile time.
template <class T>
__device__ inline float element(const Vec16Bytes& vector, int i);

template <>
__device__ inline float element<float>(const Vec16Bytes& vector, int i) {
  return float_of_bits(vector.word[i]);
}
template <>
__device__ inline float element<Bf16>(const Vec16Bytes& vector, int i) {
  const uint32_t word = vector.word[i / 2];
  return float_of_bits(i % 2 ? word & 0xFFFF0000u : word << 16);
}
template <>
__device__ inline float element<F16>(const Vec16Bytes& vector, int i) {
  return half_to_float(static_cast<uint16_t>(vector.word[i / 2] >> (i % 2 * 16)));
}

// The bits of element i become those of -inf.
template <class T>
__device__ inline void forbid_element(Vec16Bytes& vector, int i) {
  constexpr int kBits = 8 * sizeof(T), kInWord = 32 / kBits;
  const int shift = i % kInWord * kBits;
  const uint32_t field = 0xFFFFFFFFu >> (32 - kBits) << shift;
  uint32_t& word = vector.word[i / kInWord];
  word = (word & ~field) | Elements<T>::kLowest << shift;
}

template <class T>
__device__ inline void store_element(T* to, const Vec16Bytes& vector, int i) {
  constexpr int kInWord = 4 / sizeof(T);
  const uint32_t bits = vector.word[i / kInWord] >> i % kInWord * 16;
  T value;
  memcpy(&value, &bits, sizeof value);
  *to = value;
}

template <class T>
__device__ inline void store_lowest(T* to) {
  Vec16Bytes lowest = {};
  forbid_element<T>(lowest, 0);
  store_element(to, lowest, 0);
}

// Calls `body` with a value of the element type.
template <class Body>
inline auto with_element_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kBf16: return body(Bf16{});
    case DType::kF16: return body(F16{});
    default: return body(float{});
  }
}

}  // namespace tapout::cuda
