// Sixteen f32 lanes, whatever the instruction set: one lane layout, one exponential and one
// reduction tree, so that every instruction set returns the same bits.
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
constexpr float kExpLow = -87.3f;  // e^x is below the smallest normal f32 from here down

// e^x for x <= 88, 0 for x <= kExpLow; NaN stays NaN. Relative error below 1.2e-7.
//   x = n ln 2 + r, |r| <= ln(2)/2:  e^x = 2^n (1 + r + r^2 P(r)), P minimax of degree 4.
inline Vec16 exp16(Vec16 x) {
  const Vec16 low = set16(kExpLow);
  const Vec16 bounded = max16(low, x);
  // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits.
  const Vec16 shifter = set16(0x1.8p23f);
  const Vec16 shifted = fma16(bounded, set16(0x1.715476p0f), shifter);
  const Vec16 n = sub16(shifted, shifter);
  Vec16 r = fma16(n, set16(-0x1.62e400p-1f), bounded);  // ln 2 in two parts: 16 bits, the rest
  r = fma16(n, set16(-0x1.7f7d1cp-20f), r);
  Vec16 series = set16(0x1.6a23d0p-10f);
  series = fma16(series, r, set16(0x1.123a20p-7f));
  series = fma16(series, r, set16(0x1.5558f2p-5f));
  series = fma16(series, r, set16(0x1.555492p-3f));
  series = fma16(series, r, set16(0x1.fffffcp-2f));
  series = fma16(series, r, set16(1.0f));
  series = fma16(series, r, set16(1.0f));
  return select_ge16(low, x, set16(0.0f), scale16(series, shifted, n));
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
