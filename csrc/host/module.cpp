// tapout_kernels._host: what runs on the host and touches no tensor.
#include <pybind11/pybind11.h>

#include "bind_graph_loop.h"
#include "bind_replay.h"
#include "build_info.h"

namespace py = pybind11;

static py::dict build_info() {
  py::dict info;
  info["version"] = kVersion;
  info["compiler"] = kCompiler;
  info["cxx_flags"] = kCxxFlags;
  info["torch_headers"] = kTorchHeaders;
  info["torch_target"] = kTorchTarget;
  info["instruction_sets"] = py::str(kInstructionSets).attr("split")();
  info["cuda"] = kCuda;
  return info;
}

PYBIND11_MODULE(_host, module) {
  module.doc() = "Host-side helpers of tapout_kernels";
  module.def("build_info", &build_info,
             "How this package was compiled: compiler, flags, torch headers, instruction sets.");
  tapout::bind_replay(module);
  tapout::bind_graph_loop(module);
}
