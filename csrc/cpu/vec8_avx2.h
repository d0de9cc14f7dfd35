// The last three steps of every reduction, on eight lanes, shared by AVX2 and AVX-512.
#pragma once

#include <immintrin.h>

#include "half.h"

namespace tapout {
inline namespace TAPOUT_ISA {

template <class Combine>
inline float reduce8(__m256 a, Combine combine) {
  __m128 half = combine(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = combine(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(combine(half, _mm_shuffle_ps(half, half, 1)));
}

inline float reduce_add8(__m256 a) {
  return reduce8(a, [](__m128 x, __m128 y) { return _mm_add_ps(x, y); });
}
inline float reduce_max8(__m256 a) {
  return reduce8(a, [](__m128 x, __m128 y) { return _mm_max_ps(x, y); });
}
inline float reduce_min8(__m256 a) {
  return reduce8(a, [](__m128 x, __m128 y) { return _mm_min_ps(x, y); });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
