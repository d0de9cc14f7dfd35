// What a decoder does with a token between its products. Numbers are rounded to the tensors' dtype
// where a program that calls one operator after the other would round them.
#pragma once

#include <math.h>
#include <string.h>

#include "vec16.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int64_t kAloneBelow = 1 << 15;  // numbers that are not worth a second thread

template <class Scalar>
inline float rounded(float value) {
  Scalar narrow;
  from_f32(value, &narrow);
  return to_f32(narrow);
}

template <class Scalar>
inline void add_row(Scalar* x, const Scalar* delta, int64_t size) {
  for (int64_t i = 0; i < size; ++i) from_f32(to_f32(x[i]) + to_f32(delta[i]), x + i);
}

// Sixteen sums, each over every sixteenth number; then those, then what is left.
inline float sum_of_squares(const float* x, int64_t size) {
  const int64_t whole = size / kLanes * kLanes;
  Vec16 sums = set16(0.0f);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec16 part = load16(x + i);
    sums = fma16(part, part, sums);
  }
  float total = reduce_add16(sums);
  for (int64_t i = whole; i < size; ++i) total = fmaf(x[i], x[i], total);
  return total;
}

// normed = x / rms(x) * weight; `normed` may be `x`. `wide`: room for `size` numbers.
template <class Scalar>
inline void norm_row(const Scalar* x, const Scalar* weight, int64_t size, float eps, float* wide,
                     Scalar* normed) {
  for (int64_t i = 0; i < size; ++i) wide[i] = to_f32(x[i]);
  const float mean = sum_of_squares(wide, size) / static_cast<float>(size);
  const float scale = 1.0f / sqrtf(mean + eps);
  for (int64_t i = 0; i < size; ++i) {
    from_f32(rounded<Scalar>(wide[i] * scale) * to_f32(weight[i]), normed + i);
  }
}

// x / (1 + e^-x)
inline Vec16 silu16(Vec16 x) {
  const Vec16 own = max16(set16(-87.0f), x);  // e^-x stays finite, and silu all but 0
  const Vec16 rate = set16(static_cast<float>(-kLog2E));
  return div16(own, add16(exp2_16(own, rate), set16(1.0f)));
}

template <class Scalar>
inline void silu_and_mul16(const Scalar* gate, const Scalar* up, Scalar* y) {
  alignas(64) float silu[kLanes];
  store16(silu, silu16(load16(gate)));
  for (int64_t i = 0; i < kLanes; ++i) {
    from_f32(rounded<Scalar>(silu[i]) * to_f32(up[i]), y + i);
  }
}

// y = silu(gate) * up, the two side by side.
template <class Scalar>
inline void silu_and_mul_row(const Scalar* gate, int64_t size, Scalar* y) {
  const Scalar* up = gate + size;
  const int64_t whole = size / kLanes * kLanes, rest = size - whole;
  for (int64_t i = 0; i < whole; i += kLanes) silu_and_mul16(gate + i, up + i, y + i);
  if (rest == 0) return;
  Scalar last[3][kLanes] = {};
  memcpy(last[0], gate + whole, rest * sizeof(Scalar));
  memcpy(last[1], up + whole, rest * sizeof(Scalar));
  silu_and_mul16(last[0], last[1], last[2]);
  memcpy(y + whole, last[2], rest * sizeof(Scalar));
}

// A head turned to its position; halves are paired as Hugging Face pairs them.
template <class Scalar>
inline void rotate_head(Scalar* x, const Scalar* cos, const Scalar* sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float left = to_f32(x[i]), right = to_f32(x[i + half]);
    const float first = rounded<Scalar>(left * to_f32(cos[i])) + right * to_f32(sin[i]);
    const float second =
        rounded<Scalar>(right * to_f32(cos[i + half])) + left * to_f32(sin[i + half]);
    from_f32(first, x + i);
    from_f32(second, x + i + half);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
