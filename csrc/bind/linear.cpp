#include "backend.h"
#include "panels.h"

namespace tapout::bind {

void linear(const Tensor& x,              // [rows, inputs]
            const Tensor& panels,         // PanelShape
            const OptionalTensor& scale,  // [outputs]
            const OptionalTensor& bias,   // [outputs]
            const Tensor& y) {            // [rows, outputs]
  const Arguments arguments("linear", x);
  LinearParams params = {};
  params.rows = arguments.size("x", x, 2, 0);
  params.inputs = x.size(1);
  params.outputs = arguments.size("y", y, 2, 1);
  params.x = arguments.floats("x", x, {params.rows, params.inputs}, &params.dtype);
  params.scale = arguments.input<float>("scale", scale, {params.outputs});
  params.panels = panel_data(arguments, "panels", panels, params.outputs, params.inputs,
                             params.dtype, params.scale != nullptr);
  params.bias = arguments.input<float>("bias", bias, {params.outputs});
  params.y = arguments.floats("y", y, {params.rows, params.outputs}, params.dtype);
  if (params.rows > 0) run(params);
}

}  // namespace tapout::bind

TAPOUT_REGISTER_DECODER(linear)
