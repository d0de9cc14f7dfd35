// Vec16 as two AVX2 registers. See vec16_scalar.h for what each function means.
#pragma once

#include <math.h>

#include "vec8_avx2.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Vec16 {
  __m256 low;
  __m256 high;
};

inline __m256 load8(const float* from) { return _mm256_loadu_ps(from); }
inline __m256 load8(const Bf16* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m256 load8(const F16* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

template <class Scalar>
inline Vec16 load16(const Scalar* from) {
  return {load8(from), load8(from + 8)};
}

inline void store16(float* to, Vec16 a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
inline Vec16 set16(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Vec16 add16(Vec16 a, Vec16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vec16 sub16(Vec16 a, Vec16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec16 mul16(Vec16 a, Vec16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec16 fma16(Vec16 a, Vec16 b, Vec16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Vec16 fms16(Vec16 a, Vec16 b, Vec16 c) {
  return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
inline Vec16 max16(Vec16 a, Vec16 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Vec16 min16(Vec16 a, Vec16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

inline __m256 ge8(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }

inline Vec16 select_ge16(Vec16 a, Vec16 b, Vec16 yes, Vec16 no) {
  return {_mm256_blendv_ps(no.low, yes.low, ge8(a.low, b.low)),
          _mm256_blendv_ps(no.high, yes.high, ge8(a.high, b.high))};
}

inline __m256 keep8(__m256 a, uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
  const __m256 kept = _mm256_castsi256_ps(_mm256_cmpeq_epi32(all, lane));
  return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), a, kept);
}

inline Vec16 keep16(Vec16 a, uint32_t bits) {
  return {keep8(a.low, bits), keep8(a.high, bits >> 8)};
}

inline int count_ge16(Vec16 a, Vec16 b) {
  const int low = _mm256_movemask_ps(ge8(a.low, b.low));
  const int high = _mm256_movemask_ps(ge8(a.high, b.high));
  return __builtin_popcount(static_cast<unsigned>(low | high << 8));
}

inline Vec16 round16(Vec16 a) {
  const Vec16 shifter = set16(0x1.8p23f);
  return sub16(add16(a, shifter), shifter);
}

inline __m256 scale8(__m256 a, __m256 n, __m256 y, __m256 low) {
  const __m256i shifted = _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(0x1.8p23f)));
  const __m256i one = _mm256_set1_epi32(0x3F800000);
  const __m256i power = _mm256_add_epi32(_mm256_slli_epi32(shifted, 23), one);
  const __m256 below = _mm256_cmp_ps(y, low, _CMP_LE_OQ);
  return _mm256_andnot_ps(below, _mm256_mul_ps(a, _mm256_castsi256_ps(power)));
}

inline Vec16 scale16(Vec16 a, Vec16 n, Vec16 y, Vec16 low) {
  return {scale8(a.low, n.low, y.low, low.low), scale8(a.high, n.high, y.high, low.high)};
}

inline float reduce_add16(Vec16 a) { return reduce_add8(_mm256_add_ps(a.low, a.high)); }
inline float reduce_max16(Vec16 a) { return reduce_max8(_mm256_max_ps(a.low, a.high)); }
inline float reduce_min16(Vec16 a) { return reduce_min8(_mm256_min_ps(a.low, a.high)); }

}  // namespace TAPOUT_ISA
}  // namespace tapout
