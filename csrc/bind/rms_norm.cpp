#include "backend.h"

namespace tapout::bind {

void rms_norm(const Tensor& x,              // [T, size]
              const OptionalTensor& delta,  // as x
              const Tensor& weight,         // [size]
              double eps,
              const Tensor& normed) {  // as x
  const Arguments arguments("rms_norm", x);
  RmsNormParams params = {};
  params.rows = arguments.size("x", x, 2, 0);
  params.size = x.size(1);
  params.eps = static_cast<float>(eps);
  const Shape shape = {params.rows, params.size};
  params.x = arguments.floats("x", x, shape, &params.dtype);
  if (delta) params.delta = arguments.floats("delta", *delta, shape, params.dtype);
  params.weight = arguments.floats("weight", weight, {params.size}, params.dtype);
  params.normed = arguments.floats("normed", normed, shape, params.dtype);
  if (params.rows > 0) run(params);
}

}  // namespace tapout::bind

TAPOUT_REGISTER_DECODER(rms_norm)
