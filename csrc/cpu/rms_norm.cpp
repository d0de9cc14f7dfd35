// rms_norm: x += delta, normed = x / rms(x) * weight, row by row.
#include "around_attention.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

template <class Scalar>
static void norm_at(const RmsNormParams& params, int64_t row) {
  const int64_t at = row * params.size;
  Scalar* x = static_cast<Scalar*>(params.x) + at;
  if (params.delta) add_row(x, static_cast<const Scalar*>(params.delta) + at, params.size);
  norm_row(x, static_cast<const Scalar*>(params.weight), params.size, params.eps,
           static_cast<Scalar*>(params.normed) + at);
}

void rms_norm(const RmsNormParams& params, const Team& team) {
  const Team few = params.rows * params.size < kAloneBelow ? alone(team, 0) : team;
  for_each(few, params.rows, [&](int64_t, int64_t row) {
    switch (params.dtype) {
      case DType::kF32: return norm_at<float>(params, row);
      case DType::kBf16: return norm_at<Bf16>(params, row);
      case DType::kF16: return norm_at<F16>(params, row);
    }
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
