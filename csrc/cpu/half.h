// The element types of logits, one at a time.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../core/macros.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline float to_f32(float value) { return value; }

inline float to_f32(Bf16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

inline float to_f32(F16 value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t exponent = (value.bits >> 10) & 31u, mantissa = value.bits & 1023u;
  uint32_t bits = sign | (exponent + 112u) << 23 | mantissa << 13;
  if (exponent == 31) bits = sign | 0x7F800000u | mantissa << 13;
  float out;
  memcpy(&out, &bits, sizeof out);
  if (exponent != 0) return out;
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

// The nearest value, ties to even; NaN stays NaN.
inline void from_f32(float value, float* to) { *to = value; }

inline void from_f32(float value, Bf16* to) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(value == value ? rounded : bits >> 16 | 0x40u);
}

inline void from_f32(float value, F16* to) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7FFFFFFFu;
  uint32_t out;
  if (bits >= 0x47800000u) {  // 2^16 and above, NaN
    out = bits > 0x7F800000u ? 0x7E00u : 0x7C00u;
  } else if (bits < 0x38800000u) {  // below 2^-14: adding 1/2 leaves multiples of 2^-24
    float shifted;
    memcpy(&shifted, &bits, sizeof shifted);
    shifted += 0.5f;
    memcpy(&out, &shifted, sizeof out);
    out -= 0x3F000000u;
  } else {
    out = (bits - 0x38000000u + 0xFFFu + (bits >> 13 & 1u)) >> 13;
  }
  to->bits = static_cast<uint16_t>(sign | out);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
