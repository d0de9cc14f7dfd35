// Sixteen f32 lanes, whatever the instruction set: one lane layout, one exponential and one
// reduction tree, so that every instruction set returns the same bits. And eight lanes of integers,
// for random words.
#pragma once

#if defined(TAPOUT_USE_AVX512)
#include "vec16_avx512.h"
#elif defined(TAPOUT_USE_AVX2)
#include "vec16_avx2.h"
#else
#include "vec16_scalar.h"
#endif

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int64_t kLanes = 16;
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr float kExponentLow = -126.0f;  // below 2^-126 a weight is 0: results are normal or 0

// The first `count` of sixteen numbers, or all if there are more; zeros after them.
template <class Scalar>
inline Vec16 load_part16(const Scalar* from, int64_t count) {
  if (count >= kLanes) return load16(from);
  Scalar part[kLanes] = {};
  memcpy(part, from, count * sizeof(Scalar));
  return load16(part);
}

template <class Scalar>
inline void store_part16(Scalar* to, int64_t count, Vec16 a) {
  if (count >= kLanes) return store16(to, a);
  Scalar part[kLanes];
  store16(part, a);
  memcpy(to, part, count * sizeof(Scalar));
}

// 2^y for y = a * rate below 127, 0 for y <= kExponentLow; NaN stays NaN. e^(a t) is rate = t log2
// e.
//   n = round(y), r = y - n with one rounding (fma), 2^r = 1 + r P(r), P minimax of degree 5 over
//   [-1/2, 1/2]. Relative error below 1e-7, plus that of `rate` times |y| ln 2.
inline Vec16 exp2_16(Vec16 a, Vec16 rate) {
  const Vec16 y = mul16(a, rate);
  const Vec16 n = round16(y);
  const Vec16 r = fms16(a, rate, n);
  Vec16 series = set16(0x1.470bbap-13f);
  series = fma16(series, r, set16(0x1.5f72acp-10f));
  series = fma16(series, r, set16(0x1.3b270ep-7f));
  series = fma16(series, r, set16(0x1.c6ae72p-5f));
  series = fma16(series, r, set16(0x1.ebfbe2p-3f));
  series = fma16(series, r, set16(0x1.62e432p-1f));
  series = fma16(series, r, set16(1.0f));
  return scale16(series, n, y, set16(kExponentLow));
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
