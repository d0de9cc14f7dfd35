// GraphLoop for Python, where graphs, functions and device memory are addresses. What they are was
// checked by the caller (tapout_kernels/round_graph.py). The driver is called without the
// interpreter's lock: building takes milliseconds, and a launch waits where too many are queued.
#include "bind_graph_loop.h"

#include <pybind11/stl.h>

#include <array>
#include <memory>

#include "graph_loop.h"

namespace tapout {
inline namespace TAPOUT_ISA {

namespace py = pybind11;
using Unlocked = py::call_guard<py::gil_scoped_release>;

template <class Pointer>
static Pointer pointer(uintptr_t address) {
  return reinterpret_cast<Pointer>(address);
}

static std::unique_ptr<GraphLoop> graph_loop(
    const std::string& driver, uintptr_t before, uintptr_t body,
    const std::vector<std::pair<int32_t, uintptr_t>>& verify, uintptr_t after,
    const std::array<uintptr_t, 3>& kernels, uintptr_t num_active, uintptr_t steps, int32_t slots) {
  using cuda_driver::Function;
  using cuda_driver::Graph;
  RoundParts parts = {pointer<Graph>(before), pointer<Graph>(body), {}, pointer<Graph>(after)};
  for (const auto& [width, graph] : verify) {
    parts.verify.emplace_back(width, pointer<Graph>(graph));
  }
  const LoopKernels functions = {pointer<Function>(kernels[0]), pointer<Function>(kernels[1]),
                                 pointer<Function>(kernels[2])};
  const LoopState state = {pointer<const int32_t*>(num_active), pointer<int32_t*>(steps), slots};
  return std::make_unique<GraphLoop>(cuda_driver::driver_of(driver), parts, functions, state);
}

static std::string graph_loop_problem(const std::string& driver) {
  try {
    cuda_driver::driver_of(driver);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void bind_graph_loop(py::module_& module) {
  py::class_<GraphLoop>(module, "GraphLoop", "A round as one CUDA graph, on the current context.")
      .def(py::init(&graph_loop), py::arg("driver"), py::arg("before"), py::arg("body"),
           py::arg("verify"), py::arg("after"), py::arg("kernels"), py::arg("num_active"),
           py::arg("steps"), py::arg("slots"), Unlocked())
      .def(
          "launch",
          [](GraphLoop& loop, uintptr_t stream) {
            loop.launch(pointer<cuda_driver::Stream>(stream));
          },
          py::arg("stream"), Unlocked())
      .def("close", &GraphLoop::close, Unlocked())
      .def("nodes", &GraphLoop::nodes);
  module.def("graph_loop_problem", &graph_loop_problem, py::arg("driver"),
             "Why the driver of this path cannot run such graphs; empty if it can.");
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
