// A whole round of speculative decoding as one CUDA graph, out of parts that torch has captured:
//
//   before -> begin -> WHILE { body -> continue } -> choose -> IF { verify } ... -> after
//
// The kernels of csrc/cuda/graph_loop.cu stand between the parts and set the values of the
// conditional nodes: while requests draft and there are slots, the body runs again; then the first
// verify forward that is wide enough runs, and no other.
#pragma once

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda_driver.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct RoundParts {  // captured; each is copied into the graph
  cuda_driver::Graph before;
  cuda_driver::Graph body;
  std::vector<std::pair<int32_t, cuda_driver::Graph>> verify;  // by width, ascending
  cuda_driver::Graph after;
};

struct LoopKernels {
  cuda_driver::Function begin;
  cuda_driver::Function proceed;
  cuda_driver::Function choose;
};

struct LoopState {
  const int32_t* num_active;  // both on the device
  int32_t* steps;
  int32_t slots;
};

// A graph and what was made of it to run, destroyed together.
class OwnedGraph {
 public:
  OwnedGraph(const cuda_driver::Driver& driver, cuda_driver::Context context);
  ~OwnedGraph() { close(); }
  OwnedGraph(const OwnedGraph&) = delete;
  OwnedGraph& operator=(const OwnedGraph&) = delete;

  cuda_driver::Graph graph() const { return graph_; }
  cuda_driver::Context context() const { return context_; }
  void instantiate();
  void launch(cuda_driver::Stream stream) const;
  bool is_open() const { return exec_ != nullptr; }
  void close() noexcept;

 private:
  const cuda_driver::Driver& driver_;
  cuda_driver::Context context_;
  cuda_driver::Graph graph_ = nullptr;
  cuda_driver::Exec exec_ = nullptr;
};

class GraphLoop {
 public:
  // On the current context, that of the kernels and of everything captured. Throws
  // std::invalid_argument for a part that cannot be in a graph of this kind and std::runtime_error
  // for what the driver refuses; nothing is left behind then.
  GraphLoop(const cuda_driver::Driver& driver, const RoundParts& parts, const LoopKernels& kernels,
            const LoopState& state);

  // One launch; from any thread, whatever context is current. std::runtime_error after close().
  void launch(cuda_driver::Stream stream);
  // Launches that were begun end first. Nothing happens the second time.
  void close();
  // What the graph holds, a line each, indented by what it is inside of.
  const std::vector<std::string>& nodes() const { return nodes_; }

 private:
  std::mutex mutex_;  // an executable graph is launched by one thread at a time
  OwnedGraph graph_;
  std::vector<std::string> nodes_;
};

}  // namespace TAPOUT_ISA
}  // namespace tapout
