// Vec16 in portable C++: the definition the vector versions reproduce bit by bit.
#pragma once

#include <math.h>

#include "half.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Vec16 {
  float lane[16];
};

template <class Lane>
inline Vec16 make16(Lane lane) {
  Vec16 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = lane(i);
  return out;
}

template <class Scalar>
inline Vec16 load16(const Scalar* from) {
  return make16([&](int i) { return to_f32(from[i]); });
}

inline void store16(float* to, Vec16 a) { memcpy(to, a.lane, sizeof a.lane); }
inline Vec16 set16(float value) {
  return make16([&](int) { return value; });
}
inline Vec16 add16(Vec16 a, Vec16 b) {
  return make16([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec16 sub16(Vec16 a, Vec16 b) {
  return make16([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vec16 mul16(Vec16 a, Vec16 b) {
  return make16([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vec16 fma16(Vec16 a, Vec16 b, Vec16 c) {
  return make16([&](int i) { return fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}

inline Vec16 fms16(Vec16 a, Vec16 b, Vec16 c) {
  return make16([&](int i) { return fmaf(a.lane[i], b.lane[i], -c.lane[i]); });
}

// The second operand where either is NaN, as x86 does.
inline Vec16 max16(Vec16 a, Vec16 b) {
  return make16([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec16 min16(Vec16 a, Vec16 b) {
  return make16([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}

// a >= b ? yes : no; `no` where either is NaN.
inline Vec16 select_ge16(Vec16 a, Vec16 b, Vec16 yes, Vec16 no) {
  return make16([&](int i) { return a.lane[i] >= b.lane[i] ? yes.lane[i] : no.lane[i]; });
}

// a in the lanes whose bit is set, -inf in the others.
inline Vec16 keep16(Vec16 a, uint32_t bits) {
  return make16([&](int i) { return bits >> i & 1u ? a.lane[i] : -INFINITY; });
}

inline int count_ge16(Vec16 a, Vec16 b) {
  int count = 0;
  for (int i = 0; i < 16; ++i) count += a.lane[i] >= b.lane[i];
  return count;
}

// The nearest integer, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves it in the low bits.
inline Vec16 round16(Vec16 a) {
  return make16([&](int i) { return (a.lane[i] + 0x1.8p23f) - 0x1.8p23f; });
}

inline float scale_lane(float a, float n) {
  const float shifted = n + 0x1.8p23f;
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3F800000u;
  float power;
  memcpy(&power, &bits, sizeof power);
  return a * power;
}

// a * 2^n, or 0 where y <= low. A NaN in y leaves a NaN.
inline Vec16 scale16(Vec16 a, Vec16 n, Vec16 y, Vec16 low) {
  return make16(
      [&](int i) { return y.lane[i] <= low.lane[i] ? 0.0f : scale_lane(a.lane[i], n.lane[i]); });
}

// Lanes i and i + 8, then i + 4, i + 2, i + 1: the one reduction tree.
inline float reduce_add16(Vec16 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.lane[i] = a.lane[i] + a.lane[i + half];
  }
  return a.lane[0];
}

inline float reduce_max16(Vec16 a) {
  float best = a.lane[0];
  for (int i = 1; i < 16; ++i) best = a.lane[i] > best ? a.lane[i] : best;
  return best;
}

inline float reduce_min16(Vec16 a) {
  float least = a.lane[0];
  for (int i = 1; i < 16; ++i) least = a.lane[i] < least ? a.lane[i] : least;
  return least;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
