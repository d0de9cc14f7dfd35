// head_inputs: what a draft head's first product reads, norm(embedding of a token) | norm(state).
#include "around_attention.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

template <class Scalar>
static void input_at(const HeadInputsParams& params, int64_t row) {
  const int64_t size = params.size;
  const int64_t id = params.ids[row], known = id >= 0 && id < params.vocab ? id : 0;
  const Scalar* token = static_cast<const Scalar*>(params.embedding) + known * size;
  const Scalar* state = static_cast<const Scalar*>(params.states) + row * size;
  Scalar* normed = static_cast<Scalar*>(params.normed) + row * 2 * size;
  norm_row(token, static_cast<const Scalar*>(params.token_norm), size, params.eps, normed);
  norm_row(state, static_cast<const Scalar*>(params.state_norm), size, params.eps, normed + size);
}

void head_inputs(const HeadInputsParams& params, const Team& team) {
  const Team few = 2 * params.rows * params.size < kAloneBelow ? alone(team, 0) : team;
  for_each(few, params.rows, [&](int64_t, int64_t row) {
    switch (params.dtype) {
      case DType::kF32: return input_at<float>(params, row);
      case DType::kBf16: return input_at<Bf16>(params, row);
      case DType::kF16: return input_at<F16>(params, row);
    }
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
