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

inline void store16(float* to, Vec16 a) { _mm512_storeu_ps(to, a.all); }
inline Vec16 set16(float value) { return {_mm512_set1_ps(value)}; }
inline Vec16 add16(Vec16 a, Vec16 b) { return {_mm512_add_ps(a.all, b.all)}; }
inline Vec16 sub16(Vec16 a, Vec16 b) { return {_mm512_sub_ps(a.all, b.all)}; }
inline Vec16 mul16(Vec16 a, Vec16 b) { return {_mm512_mul_ps(a.all, b.all)}; }
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

inline Vec16 round16(Vec16 a) {
  return {_mm512_roundscale_ps(a.all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline Vec16 scale16(Vec16 a, Vec16 n, Vec16 y, Vec16 low) {
  const __mmask16 above = _mm512_cmp_ps_mask(y.all, low.all, _CMP_NLE_UQ);
  return {_mm512_maskz_scalef_ps(above, a.all, n.all)};
}

inline __m256 low8(Vec16 a) { return _mm512_castps512_ps256(a.all); }
inline __m256 high8(Vec16 a) { return _mm512_extractf32x8_ps(a.all, 1); }

inline float reduce_add16(Vec16 a) { return reduce_add8(_mm256_add_ps(low8(a), high8(a))); }
inline float reduce_max16(Vec16 a) { return reduce_max8(_mm256_max_ps(low8(a), high8(a))); }
inline float reduce_min16(Vec16 a) { return reduce_min8(_mm256_min_ps(low8(a), high8(a))); }

}  // namespace TAPOUT_ISA
}  // namespace tapout
