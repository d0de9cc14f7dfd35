// rms_norm: x += delta, normed = x / rms(x) * weight, row by row.
#include "around_attention.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

template <class Scalar>
static void norm_at(const RmsNormParams& params, int64_t row, float* wide) {
  const int64_t at = row * params.size;
  Scalar* x = static_cast<Scalar*>(params.x) + at;
  if (params.delta) add_row(x, static_cast<const Scalar*>(params.delta) + at, params.size);
  norm_row(x, static_cast<const Scalar*>(params.weight), params.size, params.eps, wide,
           static_cast<Scalar*>(params.normed) + at);
}

int64_t rms_norm_scratch_bytes(const RmsNormParams& params) {
  return params.size * static_cast<int64_t>(sizeof(float));
}

void rms_norm(const RmsNormParams& params, const Team& team) {
  const Team few = params.rows * params.size < kAloneBelow ? alone(team, 0) : team;
  for_each(few, params.rows, [&](int64_t worker, int64_t row) {
    float* wide = reinterpret_cast<float*>(few.scratch + worker * few.scratch_stride);
    switch (params.dtype) {
      case DType::kF32: return norm_at<float>(params, row, wide);
      case DType::kBf16: return norm_at<Bf16>(params, row, wide);
      case DType::kF16: return norm_at<F16>(params, row, wide);
    }
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
