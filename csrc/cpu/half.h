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

}  // namespace TAPOUT_ISA
}  // namespace tapout
