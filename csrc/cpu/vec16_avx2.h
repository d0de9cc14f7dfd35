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
inline __m256 load8(const int8_t* from) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bits));
}

template <class Scalar>
inline Vec16 load16(const Scalar* from) {
  return {load8(from), load8(from + 8)};
}

inline __m256 load_first8(const Bf16* pairs) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
inline __m256 load_second8(const Bf16* pairs) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000));
  return _mm256_castsi256_ps(_mm256_and_si256(bits, high));
}

inline void store16(float* to, Vec16 a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}

// The numbers' upper halves, rounded, in the lower halves of the words.
inline __m256i rounded_bf16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
  const __m256i finite = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(finite, quiet, nan);
}
inline void store16(Bf16* to, Vec16 a) {
  const __m256i pairs = _mm256_packus_epi32(rounded_bf16(a.low), rounded_bf16(a.high));
  const __m256i ordered = _mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ordered);
}

inline __m128i rounded_f16(__m256 a) {  // every NaN of a sign is the same
  const __m256 sign = _mm256_and_ps(a, _mm256_set1_ps(-0.0f));
  const __m256 quiet = _mm256_or_ps(sign, _mm256_set1_ps(NAN));
  const __m256 one = _mm256_blendv_ps(a, quiet, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_cvtps_ph(one, _MM_FROUND_TO_NEAREST_INT);
}
inline void store16(F16* to, Vec16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), rounded_f16(a.low));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), rounded_f16(a.high));
}

template <class Scalar>
Vec16 rounded16(Vec16 a);
template <>
inline Vec16 rounded16<float>(Vec16 a) {
  return a;
}
template <>
inline Vec16 rounded16<Bf16>(Vec16 a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(rounded_bf16(a.low), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(rounded_bf16(a.high), 16))};
}
template <>
inline Vec16 rounded16<F16>(Vec16 a) {
  return {_mm256_cvtph_ps(rounded_f16(a.low)), _mm256_cvtph_ps(rounded_f16(a.high))};
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
inline Vec16 div16(Vec16 a, Vec16 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
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

inline uint32_t key_bins8(__m256 a, uint32_t low, uint32_t span, int shift, uint32_t* bin) {
  const __m256i bits = _mm256_castps_si256(a), top = _mm256_set1_epi32(INT32_MIN);
  const __m256i key = _mm256_xor_si256(bits, _mm256_or_si256(_mm256_srai_epi32(bits, 31), top));
  const __m256i offset = _mm256_sub_epi32(key, _mm256_set1_epi32(static_cast<int>(low)));
  const __m256i last = _mm256_set1_epi32(static_cast<int>(span));
  const __m256i shifted = _mm256_srl_epi32(offset, _mm_cvtsi32_si128(shift));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bin), shifted);
  const __m256i inside = _mm256_cmpeq_epi32(_mm256_min_epu32(offset, last), offset);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(inside)));
}

inline uint32_t key_bins16(Vec16 a, uint32_t low, uint32_t span, int shift, uint32_t* bin) {
  const uint32_t first = key_bins8(a.low, low, span, shift, bin);
  return first | key_bins8(a.high, low, span, shift, bin + 8) << 8;
}

inline void fixed4(__m128 a, int64_t* to) {
  const __m256d big = _mm256_set1_pd(0x1p52);
  const __m256d scaled = _mm256_mul_pd(_mm256_cvtps_pd(a), _mm256_set1_pd(0x1p40));
  const __m256i bits = _mm256_castpd_si256(_mm256_add_pd(scaled, big));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_sub_epi64(bits, _mm256_castpd_si256(big)));
}

inline void fixed16(Vec16 a, int64_t* to) {
  fixed4(_mm256_castps256_ps128(a.low), to);
  fixed4(_mm256_extractf128_ps(a.low, 1), to + 4);
  fixed4(_mm256_castps256_ps128(a.high), to + 8);
  fixed4(_mm256_extractf128_ps(a.high, 1), to + 12);
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

// Lane i: that of vector i, for eight of them. Every step adds the halves of two vectors and leaves
// them side by side.
inline __m256 reduce_add16x8(const Vec16* a) {
  __m256 four[4], two[2];
  for (int i = 0; i < 4; ++i) {
    const __m256 left = _mm256_add_ps(a[2 * i].low, a[2 * i].high);
    const __m256 right = _mm256_add_ps(a[2 * i + 1].low, a[2 * i + 1].high);
    four[i] = _mm256_add_ps(_mm256_permute2f128_ps(left, right, 0x20),
                            _mm256_permute2f128_ps(left, right, 0x31));
  }
  for (int i = 0; i < 2; ++i) {
    const __m256 left = four[2 * i], right = four[2 * i + 1];
    two[i] =
        _mm256_add_ps(_mm256_shuffle_ps(left, right, 0x44), _mm256_shuffle_ps(left, right, 0xEE));
  }
  const __m256 sums = _mm256_add_ps(_mm256_shuffle_ps(two[0], two[1], 0x88),
                                    _mm256_shuffle_ps(two[0], two[1], 0xDD));
  return _mm256_permutevar8x32_ps(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

inline Vec16 reduce_add16(const Vec16 (&a)[16]) {
  return {reduce_add16x8(a), reduce_add16x8(a + 8)};
}
inline float reduce_max16(Vec16 a) { return reduce_max8(_mm256_max_ps(a.low, a.high)); }
inline float reduce_min16(Vec16 a) { return reduce_min8(_mm256_min_ps(a.low, a.high)); }

struct U64x8 {
  __m256i low;
  __m256i high;
};

inline U64x8 load8(const uint64_t* from) {
  const __m256i* at = reinterpret_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline void store8(uint64_t* to, U64x8 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 4), a.high);
}
inline U64x8 set8(uint64_t value) {
  const __m256i all = _mm256_set1_epi64x(static_cast<int64_t>(value));
  return {all, all};
}
inline U64x8 iota8(uint64_t first) {
  const U64x8 all = set8(first);
  return {_mm256_add_epi64(all.low, _mm256_setr_epi64x(0, 1, 2, 3)),
          _mm256_add_epi64(all.high, _mm256_setr_epi64x(4, 5, 6, 7))};
}
inline U64x8 xor8(U64x8 a, U64x8 b) {
  return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}
inline U64x8 mul8(U64x8 a, U64x8 b) {
  return {_mm256_mul_epu32(a.low, b.low), _mm256_mul_epu32(a.high, b.high)};
}
inline U64x8 high8(U64x8 a) {
  return {_mm256_srli_epi64(a.low, 32), _mm256_srli_epi64(a.high, 32)};
}
inline uint32_t at_most4(__m256i a, __m256i limit) {
  const __m256i inside = _mm256_cmpeq_epi32(_mm256_min_epu32(a, limit), a);
  const __m256i low = _mm256_slli_epi64(inside, 32);  // its sign is that of the low half
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(low)));
}
inline uint32_t at_most8(U64x8 a, uint32_t limit) {
  const __m256i bound = _mm256_set1_epi32(static_cast<int>(limit));
  return at_most4(a.low, bound) | at_most4(a.high, bound) << 4;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
