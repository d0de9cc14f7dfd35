#include "backend.h"

namespace tapout::bind {

void linear(const Tensor& x,              // [rows, inputs]
            const Tensor& panels,         // [ceil(outputs / 16), inputs, 16]
            const OptionalTensor& scale,  // [outputs]
            const OptionalTensor& bias,   // [outputs]
            const Tensor& y) {            // [rows, outputs]
  const Arguments arguments("linear", x);
  LinearParams params = {};
  params.rows = arguments.size("x", x, 2, 0);
  params.inputs = x.size(1);
  params.outputs = arguments.size("y", y, 2, 1);
  const int64_t count = (params.outputs + kPanel - 1) / kPanel;
  params.x = arguments.floats("x", x, {params.rows, params.inputs}, &params.dtype);
  const Shape packed = {count, params.inputs, kPanel};
  params.scale = arguments.input<float>("scale", scale, {params.outputs});
  params.panels = params.scale ? arguments.input<int8_t>("panels", panels, packed)
                               : arguments.floats("panels", panels, packed, params.dtype);
  params.bias = arguments.input<float>("bias", bias, {params.outputs});
  params.y = arguments.floats("y", y, {params.rows, params.outputs}, params.dtype);
  if (params.rows > 0) run(params);
}

}  // namespace tapout::bind

TAPOUT_REGISTER_DECODER(linear)
