// Weights of products as the engine's operators take them.
#pragma once

#include "checks.h"

namespace tapout::bind {

inline const void* panel_data(const Arguments& arguments, const char* name, const Tensor& panels,
                              int64_t outputs, int64_t inputs, DType dtype, bool rounded) {
  const PanelShape own = panel_shape(outputs, inputs, dtype == DType::kBf16 && !rounded);
  const Shape shape = {own.panels, own.steps, own.numbers};
  if (rounded) return arguments.input<int8_t>(name, panels, shape);
  return arguments.floats(name, panels, shape, dtype);
}

}  // namespace tapout::bind
