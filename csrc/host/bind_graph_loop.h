#pragma once

#include <pybind11/pybind11.h>

namespace tapout {
inline namespace TAPOUT_ISA {

void bind_graph_loop(pybind11::module_& module);

}  // namespace TAPOUT_ISA
}  // namespace tapout
