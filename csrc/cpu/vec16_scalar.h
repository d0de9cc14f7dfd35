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

inline Vec16 load16(const int8_t* from) {
  return make16([&](int i) { return static_cast<float>(from[i]); });
}

// Of sixteen pairs, the first numbers and the second ones.
inline Vec16 load_first16(const Bf16* pairs) {
  return make16([&](int i) { return to_f32(pairs[2 * i]); });
}
inline Vec16 load_second16(const Bf16* pairs) {
  return make16([&](int i) { return to_f32(pairs[2 * i + 1]); });
}

// To the nearest value, as from_f32.
template <class Scalar>
inline void store16(Scalar* to, Vec16 a) {
  for (int i = 0; i < 16; ++i) from_f32(a.lane[i], to + i);
}

// What a Scalar can hold of the numbers.
template <class Scalar>
inline Vec16 rounded16(Vec16 a) {
  return make16([&](int i) {
    Scalar narrow;
    from_f32(a.lane[i], &narrow);
    return to_f32(narrow);
  });
}

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
inline Vec16 div16(Vec16 a, Vec16 b) {
  return make16([&](int i) { return a.lane[i] / b.lane[i]; });
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

// Order keys of the lanes (core/sampling.h) as offsets from `low`, shifted right, into `bin`.
// Returns a bit for each offset that is at most `span` before the shift.
inline uint32_t key_bins16(Vec16 a, uint32_t low, uint32_t span, int shift, uint32_t* bin) {
  uint32_t inside = 0;
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    memcpy(&bits, &a.lane[i], sizeof bits);
    const uint32_t offset = (bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u)) - low;
    bin[i] = offset >> shift;
    inside |= uint32_t{offset <= span} << i;
  }
  return inside;
}

// a * 2^40 to the nearest integer, ties to even, for 0 <= a < 2048.
inline void fixed16(Vec16 a, int64_t* to) {
  for (int i = 0; i < 16; ++i) {
    const double shifted = static_cast<double>(a.lane[i]) * 0x1p40 + 0x1p52;
    memcpy(to + i, &shifted, sizeof shifted);
    to[i] -= 0x4330000000000000;  // the bits of 2^52
  }
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

// Lane i: that of vector i.
inline Vec16 reduce_add16(const Vec16 (&a)[16]) {
  return make16([&](int i) { return reduce_add16(a[i]); });
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

// Eight 64-bit lanes of which the low halves matter.
struct U64x8 {
  uint64_t lane[8];
};

template <class Lane>
inline U64x8 make8(Lane lane) {
  U64x8 out;
  for (int i = 0; i < 8; ++i) out.lane[i] = lane(i);
  return out;
}

inline U64x8 load8(const uint64_t* from) {
  return make8([&](int i) { return from[i]; });
}
inline void store8(uint64_t* to, U64x8 a) { memcpy(to, a.lane, sizeof a.lane); }
// first, first + 1, ...
inline U64x8 iota8(uint64_t first) {
  return make8([&](int i) { return first + static_cast<uint64_t>(i); });
}
// A bit for each lane whose low half is at most `limit`.
inline uint32_t at_most8(U64x8 a, uint32_t limit) {
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    bits |= uint32_t{static_cast<uint32_t>(a.lane[i]) <= limit} << i;
  }
  return bits;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
