// What a decoder does with a token between its products. Numbers are rounded to the tensors' dtype
// where a program that calls one operator after the other would round them.
#pragma once

#include <math.h>

#include "vec16.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int64_t kAloneBelow = 1 << 15;  // numbers that are not worth a second thread

template <class Scalar>
inline void add_row(Scalar* x, const Scalar* delta, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const Vec16 sum = add16(load_part16(x + i, size - i), load_part16(delta + i, size - i));
    store_part16(x + i, size - i, sum);
  }
}

// Sixteen sums, each over every sixteenth number; then those, then what is left.
template <class Scalar>
inline float sum_of_squares(const Scalar* x, int64_t size) {
  const int64_t whole = size / kLanes * kLanes;
  Vec16 sums = set16(0.0f);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec16 part = load16(x + i);
    sums = fma16(part, part, sums);
  }
  float total = reduce_add16(sums);
  for (int64_t i = whole; i < size; ++i) total = fmaf(to_f32(x[i]), to_f32(x[i]), total);
  return total;
}

// normed = x / rms(x) * weight; `normed` may be `x`.
template <class Scalar>
inline void norm_row(const Scalar* x, const Scalar* weight, int64_t size, float eps,
                     Scalar* normed) {
  const float mean = sum_of_squares(x, size) / static_cast<float>(size);
  const Vec16 scale = set16(1.0f / sqrtf(mean + eps));
  for (int64_t i = 0; i < size; i += kLanes) {
    const Vec16 own = rounded16<Scalar>(mul16(load_part16(x + i, size - i), scale));
    store_part16(normed + i, size - i, mul16(own, load_part16(weight + i, size - i)));
  }
}

// x / (1 + e^-x)
inline Vec16 silu16(Vec16 x) {
  const Vec16 own = max16(set16(-87.0f), x);  // e^-x stays finite, and silu all but 0
  const Vec16 rate = set16(static_cast<float>(-kLog2E));
  return div16(own, add16(exp2_16(own, rate), set16(1.0f)));
}

// y = silu(gate) * up, the two side by side.
template <class Scalar>
inline void silu_and_mul_row(const Scalar* gate, int64_t size, Scalar* y) {
  const Scalar* up = gate + size;
  for (int64_t i = 0; i < size; i += kLanes) {
    const Vec16 silu = rounded16<Scalar>(silu16(load_part16(gate + i, size - i)));
    store_part16(y + i, size - i, mul16(silu, load_part16(up + i, size - i)));
  }
}

// A head turned to its position; halves are paired as Hugging Face pairs them.
template <class Scalar>
inline void rotate_head(Scalar* x, const Scalar* cos, const Scalar* sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const auto part = [&](const Scalar* from) { return load_part16(from + i, left); };
    const Vec16 a = part(x), b = part(x + half);
    const Vec16 turned = rounded16<Scalar>(mul16(a, part(cos)));
    const Vec16 other = rounded16<Scalar>(mul16(b, part(cos + half)));
    store_part16(x + i, left, add16(turned, mul16(b, part(sin))));
    store_part16(x + half + i, left, add16(other, mul16(a, part(sin + half))));
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
