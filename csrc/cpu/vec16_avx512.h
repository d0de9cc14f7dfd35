// Vec16 as one AVX-512 register. See vec16_scalar.h for what each function means.
#pragma once

#include <math.h>

#include "vec8_avx2.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Vec16 {
  __m512 all;
};

inline Vec16 load16(const float* from) { return {_mm512_loadu_ps(from)}; }
inline Vec16 load16(const Bf16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline Vec16 load16(const F16* from) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
inline Vec16 load16(const int8_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bits))};
}

inline Vec16 load_first16(const Bf16* pairs) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16))};
}
inline Vec16 load_second16(const Bf16* pairs) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), high))};
}

#if defined(TAPOUT_USE_AVX512_BF16)
// Pairs of numbers, as they lie in memory.
struct Pairs16 {
  __m512bh all;
};

inline Pairs16 load_pairs16(const Bf16* pairs) { return {(__m512bh)_mm512_loadu_si512(pairs)}; }
inline Pairs16 set_pairs16(const Bf16* pair) {
  int32_t bits;
  memcpy(&bits, pair, sizeof(bits));
  return {(__m512bh)_mm512_set1_epi32(bits)};
}
// c + the products of the second numbers, rounded, + those of the first, rounded: two fma, but
// numbers below the smallest normal one are taken for zeros.
inline Vec16 fma_pairs16(Pairs16 a, Pairs16 b, Vec16 c) {
  return {_mm512_dpbf16_ps(c.all, a.all, b.all)};
}
#endif

inline void store16(float* to, Vec16 a) { _mm512_storeu_ps(to, a.all); }

// The numbers' upper halves, rounded, in the lower halves of the words.
inline __m512i rounded_bf16(__m512 a) {
  const __m512i bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
  const __m512i finite = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), finite, quiet);
}
inline void store16(Bf16* to, Vec16 a) {
  const __m256i all = _mm512_cvtepi32_epi16(rounded_bf16(a.all));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), all);
}

inline __m256i rounded_f16(__m512 a) {  // every NaN of a sign is the same
  const __m512 sign = _mm512_and_ps(a, _mm512_set1_ps(-0.0f));
  const __m512 quiet = _mm512_or_ps(sign, _mm512_set1_ps(NAN));
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_cvtps_ph(_mm512_mask_blend_ps(nan, a, quiet), _MM_FROUND_TO_NEAREST_INT);
}
inline void store16(F16* to, Vec16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded_f16(a.all));
}

template <class Scalar>
Vec16 rounded16(Vec16 a);
template <>
inline Vec16 rounded16<float>(Vec16 a) {
  return a;
}
template <>
inline Vec16 rounded16<Bf16>(Vec16 a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(rounded_bf16(a.all), 16))};
}
template <>
inline Vec16 rounded16<F16>(Vec16 a) {
  return {_mm512_cvtph_ps(rounded_f16(a.all))};
}

inline Vec16 set16(float value) { return {_mm512_set1_ps(value)}; }
inline Vec16 add16(Vec16 a, Vec16 b) { return {_mm512_add_ps(a.all, b.all)}; }
inline Vec16 sub16(Vec16 a, Vec16 b) { return {_mm512_sub_ps(a.all, b.all)}; }
inline Vec16 mul16(Vec16 a, Vec16 b) { return {_mm512_mul_ps(a.all, b.all)}; }
inline Vec16 div16(Vec16 a, Vec16 b) { return {_mm512_div_ps(a.all, b.all)}; }
inline Vec16 fma16(Vec16 a, Vec16 b, Vec16 c) { return {_mm512_fmadd_ps(a.all, b.all, c.all)}; }
inline Vec16 fms16(Vec16 a, Vec16 b, Vec16 c) { return {_mm512_fmsub_ps(a.all, b.all, c.all)}; }
inline Vec16 max16(Vec16 a, Vec16 b) { return {_mm512_max_ps(a.all, b.all)}; }
inline Vec16 min16(Vec16 a, Vec16 b) { return {_mm512_min_ps(a.all, b.all)}; }

inline __mmask16 ge_mask16(Vec16 a, Vec16 b) {
  return _mm512_cmp_ps_mask(a.all, b.all, _CMP_GE_OQ);
}

inline Vec16 select_ge16(Vec16 a, Vec16 b, Vec16 yes, Vec16 no) {
  return {_mm512_mask_blend_ps(ge_mask16(a, b), no.all, yes.all)};
}

inline Vec16 keep16(Vec16 a, uint32_t bits) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), _mm512_set1_ps(-INFINITY), a.all)};
}

inline int count_ge16(Vec16 a, Vec16 b) {
  return __builtin_popcount(static_cast<unsigned>(ge_mask16(a, b)));
}

inline uint32_t key_bins16(Vec16 a, uint32_t low, uint32_t span, int shift, uint32_t* bin) {
  const __m512i bits = _mm512_castps_si512(a.all), top = _mm512_set1_epi32(INT32_MIN);
  const __m512i key = _mm512_xor_si512(bits, _mm512_or_si512(_mm512_srai_epi32(bits, 31), top));
  const __m512i offset = _mm512_sub_epi32(key, _mm512_set1_epi32(static_cast<int>(low)));
  _mm512_storeu_si512(bin, _mm512_srl_epi32(offset, _mm_cvtsi32_si128(shift)));
  return _mm512_cmple_epu32_mask(offset, _mm512_set1_epi32(static_cast<int>(span)));
}

inline void fixed16(Vec16 a, int64_t* to) {
  const __m512 scaled = _mm512_mul_ps(a.all, _mm512_set1_ps(0x1p40f));
  _mm512_storeu_si512(to, _mm512_cvtps_epi64(_mm512_castps512_ps256(scaled)));
  _mm512_storeu_si512(to + 8, _mm512_cvtps_epi64(_mm512_extractf32x8_ps(scaled, 1)));
}

inline Vec16 round16(Vec16 a) {
  return {_mm512_roundscale_ps(a.all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline Vec16 scale16(Vec16 a, Vec16 n, Vec16 y, Vec16 low) {
  const __mmask16 above = _mm512_cmp_ps_mask(y.all, low.all, _CMP_NLE_UQ);
  return {_mm512_maskz_scalef_ps(above, a.all, n.all)};
}

inline __m256 lower8(Vec16 a) { return _mm512_castps512_ps256(a.all); }
inline __m256 upper8(Vec16 a) { return _mm512_extractf32x8_ps(a.all, 1); }

inline float reduce_add16(Vec16 a) { return reduce_add8(_mm256_add_ps(lower8(a), upper8(a))); }
// The tree of one vector in sixteen at once: every step adds the halves of two vectors and leaves
// them side by side.
inline Vec16 reduce_add16(const Vec16 (&a)[16]) {
  __m512 eight[8], four[4], two[2];
  for (int i = 0; i < 8; ++i) {
    const __m512 left = a[2 * i].all, right = a[2 * i + 1].all;
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(left, right, 0x44),
                             _mm512_shuffle_f32x4(left, right, 0xEE));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 left = eight[2 * i], right = eight[2 * i + 1];
    four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(left, right, 0x88),
                            _mm512_shuffle_f32x4(left, right, 0xDD));
  }
  for (int i = 0; i < 2; ++i) {
    const __m512 left = four[2 * i], right = four[2 * i + 1];
    two[i] =
        _mm512_add_ps(_mm512_shuffle_ps(left, right, 0x44), _mm512_shuffle_ps(left, right, 0xEE));
  }
  const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88),
                                    _mm512_shuffle_ps(two[0], two[1], 0xDD));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return {_mm512_permutexvar_ps(order, sums)};
}

inline float reduce_max16(Vec16 a) { return reduce_max8(_mm256_max_ps(lower8(a), upper8(a))); }
inline float reduce_min16(Vec16 a) { return reduce_min8(_mm256_min_ps(lower8(a), upper8(a))); }

struct U64x8 {
  __m512i all;
};

inline U64x8 load8(const uint64_t* from) { return {_mm512_loadu_si512(from)}; }
inline void store8(uint64_t* to, U64x8 a) { _mm512_storeu_si512(to, a.all); }
inline U64x8 set8(uint64_t value) { return {_mm512_set1_epi64(static_cast<int64_t>(value))}; }
inline U64x8 iota8(uint64_t first) {
  return {_mm512_add_epi64(set8(first).all, _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7))};
}
inline U64x8 xor8(U64x8 a, U64x8 b) { return {_mm512_xor_si512(a.all, b.all)}; }
inline U64x8 mul8(U64x8 a, U64x8 b) { return {_mm512_mul_epu32(a.all, b.all)}; }
inline U64x8 high8(U64x8 a) { return {_mm512_srli_epi64(a.all, 32)}; }
inline uint32_t at_most8(U64x8 a, uint32_t limit) {
  const __m512i low = _mm512_and_si512(a.all, _mm512_set1_epi64(0xFFFFFFFF));
  return _mm512_cmple_epu64_mask(low, _mm512_set1_epi64(limit));
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
