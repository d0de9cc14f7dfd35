#include "graph_loop.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "../core/graph_loop.h"

namespace tapout {
inline namespace TAPOUT_ISA {

using namespace cuda_driver;

constexpr uint32_t kLoopThreads = 32;  // one of them works; a warp is what a block has at least

// Makes a context the current one, for threads that have another one or none.
class CurrentContext {
 public:
  CurrentContext(const Driver& driver, Context context) : driver_(driver) {
    driver(driver.push_context, context);
  }
  ~CurrentContext() {
    Context before = nullptr;
    driver_.pop_context.function(&before);
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  const Driver& driver_;
};

// Graphs may be made and destroyed while another stream is being captured, by a garbage collector
// for instance; in the usual mode of a capture that would break it.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const Driver& driver) : driver_(driver) { exchange(); }
  ~RelaxedCapture() { exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void exchange() { driver_.exchange_capture_mode.function(&mode_); }

  const Driver& driver_;
  CaptureMode mode_ = kRelaxedCapture;
};

OwnedGraph::OwnedGraph(const Driver& driver, Context context) : driver_(driver), context_(context) {
  driver(driver.create_graph, &graph_, 0u);
}

void OwnedGraph::instantiate() {
  InstantiateParams params = {};
  const Result result = driver_.instantiate.function(&exec_, graph_, &params);
  if (result == 0) return;
  exec_ = nullptr;
  throw std::runtime_error(driver_.said(driver_.instantiate.name, result) +
                           " (CUgraphInstantiateResult " + std::to_string(params.result) + ")");
}

void OwnedGraph::launch(Stream stream) const {
  const CurrentContext current(driver_, context_);  // the null stream is that of a context
  driver_(driver_.launch, exec_, stream);
}

void OwnedGraph::close() noexcept {
  const RelaxedCapture relaxed(driver_);
  if (exec_) driver_.destroy_exec.function(exec_);  // not before its last launch has ended
  if (graph_) driver_.destroy_graph.function(graph_);
  exec_ = nullptr;
  graph_ = nullptr;
}

static Context current_context(const Driver& driver) {
  Context context = nullptr;
  driver(driver.current_context, &context);
  if (!context) throw std::runtime_error("RoundGraph: no CUDA context is current");
  return context;
}

// ---- What a captured graph holds ----------------------------------------------------------------

constexpr const char* kNodeTypes[] = {
    "kernel",           "memcpy",         "memset",     "host",
    "child graph",      "empty",          "event wait", "event record",
    "semaphore signal", "semaphore wait", "allocation", "free",
    "memory operation", "conditional"};

static std::string name_of(NodeType type) {
  const size_t i = static_cast<size_t>(type);
  return i < std::size(kNodeTypes) ? kNodeTypes[i] : "unknown (" + std::to_string(type) + ")";
}

// Whether a part may hold such a node: all of them are copied as child graphs, which memory nodes
// and conditional ones may not be in; bodies of conditional nodes are held to less.
static bool allowed(NodeType type, bool conditional) {
  switch (type) {
    case kKernelNode:
    case kMemcpyNode:
    case kMemsetNode:
    case kGraphNode:
    case kEmptyNode: return true;
    case kAllocNode:
    case kFreeNode:
    case kConditionalNode: return false;
    default: return !conditional;
  }
}

using NodeCounts = std::map<NodeType, int>;

static void count_nodes(const Driver& driver, Graph graph, NodeCounts& counts) {
  size_t size = 0;
  driver(driver.graph_nodes, graph, static_cast<Node*>(nullptr), &size);
  std::vector<Node> nodes(size);
  driver(driver.graph_nodes, graph, nodes.data(), &size);
  for (const Node node : nodes) {
    NodeType type = kEmptyNode;
    driver(driver.node_type, node, &type);
    if (type == kGraphNode) {
      Graph child = nullptr;
      driver(driver.child_graph, node, &child);
      count_nodes(driver, child, counts);
    } else {
      ++counts[type];
    }
  }
}

// "body: 14 kernel, 1 memset"; throws where the part cannot be what it is meant for.
static std::string described(const Driver& driver, const std::string& part, Graph graph,
                             bool conditional) {
  NodeCounts counts;
  count_nodes(driver, graph, counts);
  std::string text;
  for (const auto& [type, count] : counts) {
    if (!allowed(type, conditional)) {
      throw std::invalid_argument("RoundGraph: " + part + " must be without " + name_of(type) +
                                  " nodes, got " + std::to_string(count));
    }
    text += (text.empty() ? ": " : ", ") + std::to_string(count) + " " + name_of(type);
  }
  return part + text;
}

// ---- Building -----------------------------------------------------------------------------------

// Adds nodes to one graph, each after the one before.
class Chain {
 public:
  Chain(const Driver& driver, Context context, Graph graph)
      : driver_(driver), context_(context), graph_(graph) {}

  void kernel(Function function, void** arguments) {
    NodeParams params = {};
    params.type = kKernelNode;
    params.kernel.function = function;
    std::fill_n(params.kernel.grid, 3, 1u);
    std::fill_n(params.kernel.block, 3, 1u);
    params.kernel.block[0] = kLoopThreads;
    params.kernel.arguments = arguments;
    add(params);
  }

  void child(Graph captured) {
    NodeParams params = {};
    params.type = kGraphNode;
    params.child.graph = captured;
    add(params);
  }

  // The graph that is run as the handle says.
  Chain conditional(ConditionalType type, Handle handle) {
    NodeParams params = {};
    params.type = kConditionalNode;
    params.conditional.handle = handle;
    params.conditional.type = type;
    params.conditional.size = 1;
    params.conditional.context = context_;
    add(params);
    return Chain(driver_, context_, params.conditional.bodies[0]);
  }

 private:
  void add(NodeParams& params) {
    Node added = nullptr;
    driver_(driver_.add_node, &added, graph_, &last_, static_cast<const void*>(nullptr),
            size_t{last_ != nullptr}, &params);
    last_ = added;
  }

  const Driver& driver_;
  Context context_;
  Graph graph_;
  Node last_ = nullptr;
};

class RoundBuilder {
 public:
  RoundBuilder(const Driver& driver, const OwnedGraph& whole, const LoopKernels& kernels,
               const LoopState& state)
      : driver_(driver), whole_(whole), kernels_(kernels), state_(state) {}

  std::vector<std::string> build(const RoundParts& parts) {
    Chain round(driver_, whole_.context(), whole_.graph());
    add_part(round, "before", parts.before, false);
    add_loop(round, parts.body);
    add_choice(round, parts.verify);
    add_part(round, "after", parts.after, false);
    return std::move(nodes_);
  }

 private:
  void add_part(Chain& chain, const std::string& name, Graph captured, bool conditional) {
    nodes_.push_back((conditional ? "  " : "") + described(driver_, name, captured, conditional));
    chain.child(captured);
  }

  // Without a default value: every launch sets it before a node looks at it.
  Handle new_handle() const {
    Handle handle = 0;
    driver_(driver_.create_handle, &handle, whole_.graph(), whole_.context(), 0u, 0u);
    return handle;
  }

  void add_loop(Chain& round, Graph body) {
    Handle loop = new_handle();
    void* arguments[] = {&state_.num_active, &state_.steps, &state_.slots, &loop};
    round.kernel(kernels_.begin, arguments);
    nodes_.push_back("begin: 1 kernel");
    Chain step = round.conditional(kWhile, loop);
    nodes_.push_back("while num_active > 0 and steps < " + std::to_string(state_.slots));
    add_part(step, "body", body, true);
    step.kernel(kernels_.proceed, arguments);
    nodes_.push_back("  continue: 1 kernel");
  }

  void add_choice(Chain& round, const std::vector<std::pair<int32_t, Graph>>& verify) {
    VerifyWidths widths = {};
    for (const auto& [width, captured] : verify) {
      if (widths.count == kMaxVerifyWidths) {
        throw std::invalid_argument("RoundGraph: verify must have at most " +
                                    std::to_string(kMaxVerifyWidths) + " widths, got " +
                                    std::to_string(verify.size()));
      }
      widths.width[widths.count] = width;
      widths.handle[widths.count++] = new_handle();
    }
    void* arguments[] = {&state_.steps, &widths};
    round.kernel(kernels_.choose, arguments);
    nodes_.push_back("choose: 1 kernel");
    for (int32_t i = 0; i < widths.count; ++i) {
      Chain branch = round.conditional(kIf, widths.handle[i]);
      nodes_.push_back("if " + (i ? std::to_string(widths.width[i - 1]) + " < " : std::string()) +
                       "steps <= " + std::to_string(widths.width[i]));
      add_part(branch, "verify " + std::to_string(widths.width[i]),
               verify[static_cast<size_t>(i)].second, true);
    }
  }

  const Driver& driver_;
  const OwnedGraph& whole_;
  LoopKernels kernels_;
  LoopState state_;
  std::vector<std::string> nodes_;
};

GraphLoop::GraphLoop(const Driver& driver, const RoundParts& parts, const LoopKernels& kernels,
                     const LoopState& state)
    : graph_(driver, current_context(driver)),
      nodes_(RoundBuilder(driver, graph_, kernels, state).build(parts)) {
  graph_.instantiate();
}

void GraphLoop::launch(Stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!graph_.is_open()) throw std::runtime_error("RoundGraph: launch after close");
  graph_.launch(stream);
}

void GraphLoop::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  graph_.close();
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
