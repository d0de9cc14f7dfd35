// Running graphs and destroying them, and what the test asks and says.
#include "fake_driver.h"

static Result run(CUgraph_st& graph);

static Result run_kernel(CUgraphNode_st& node) {
  if (node.host) {
    node.host(node.tag);
    return 0;
  }
  std::vector<void*> arguments;
  for (auto& argument : node.arguments) arguments.push_back(argument.data());
  return node.function->run(*node.function, node.blocks, node.threads, node.shared_bytes,
                            arguments.data());
}

static Result run_conditional(CUgraphNode_st& node) {
  constexpr int kForEver = 1000;
  Conditional& conditional = world.handles.at(node.handle);
  if (!conditional.is_set) return complain("a conditional value is used before it was set");
  Result result = 0;
  for (int turn = 0; result == 0 && conditional.value != 0; ++turn) {
    if (turn == kForEver) return complain("a loop without an end");
    result = run(*node.inner);
    if (node.condition == kIf) break;
  }
  return result;
}

static Result run_node(CUgraphNode_st& node) {
  switch (node.type) {
    case kKernelNode: return run_kernel(node);
    case kGraphNode: return run(*node.inner);
    case kConditionalNode: return run_conditional(node);
    default: return 0;
  }
}

// Of the nodes that are ready the one added last comes first: edges alone make an order.
static Result run(CUgraph_st& graph) {
  std::set<Node> done;
  const auto is_ready = [&](const auto& node) {
    const auto& needs = node->dependencies;
    return !done.count(node.get()) &&
           std::all_of(needs.begin(), needs.end(), [&](Node need) { return done.count(need) > 0; });
  };
  while (done.size() < graph.nodes.size()) {
    const auto next = std::find_if(graph.nodes.rbegin(), graph.nodes.rend(), is_ready);
    done.insert(next->get());
    if (const Result result = run_node(**next)) return result;
  }
  return 0;
}

// Bodies hold what the documentation of CUDA_CONDITIONAL_NODE_PARAMS allows.
static bool has_bad_body(const CUgraph_st& graph) {
  const std::set<NodeType> bad = {NodeType(3), NodeType(6), NodeType(7), NodeType(8),
                                  NodeType(9), kAllocNode,  kFreeNode,   NodeType(12)};
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [&](const auto& node) {
    return node->type == kConditionalNode && has_type(*node->inner, bad);
  });
}

EXPORT Result cuGraphInstantiateWithParams(Exec* exec, Graph graph, InstantiateParams* params) {
  MAY_FAIL;
  params->result = 1;  // CUDA_GRAPH_INSTANTIATE_ERROR
  if (!world.graphs.count(graph) || graph->exec)
    return complain("no graph, or a second exec of it");
  if (params->flags || params->upload_stream) return complain("parameters that were not meant");
  for (const auto& [handle, conditional] : world.handles) {
    params->result = 5;  // CUDA_GRAPH_INSTANTIATE_CONDITIONAL_HANDLE_UNUSED
    if (conditional.root == graph && !conditional.has_node) return complain("a handle unused");
  }
  params->result = 2;  // CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE
  if (has_bad_body(*graph)) return complain("a node that no body of a conditional node may hold");
  params->result = 0;
  *exec = graph->exec = *world.execs.insert(new CUgraphExec_st{graph}).first;
  return 0;
}

EXPORT Result cuGraphLaunch(Exec exec, Stream stream) {
  MAY_FAIL;
  if (!world.execs.count(exec)) return complain("a launch of what is no executable graph");
  if (contexts.empty()) return complain("a launch without a context");
  for (auto& [handle, conditional] : world.handles) conditional.is_set = false;
  world.stream = stream;
  world.running = exec->graph;
  const Result result = run(*exec->graph);
  world.running = nullptr;
  return result;
}

EXPORT Result cuGraphExecDestroy(Exec exec) {
  MAY_FAIL;
  if (!world.execs.erase(exec)) return complain("an executable graph is destroyed twice");
  if (world.capture_mode != kRelaxedCapture) complain("a destruction that ends captures");
  exec->graph->exec = nullptr;
  delete exec;
  return 0;
}

EXPORT Result cuGraphDestroy(Graph graph) {
  MAY_FAIL;
  if (!world.graphs.count(graph)) return complain("a graph is destroyed twice, or is a body");
  if (graph->exec) return complain("a graph is destroyed before its executable one");
  if (world.capture_mode != kRelaxedCapture) complain("a destruction that ends captures");
  for (auto it = world.handles.begin(); it != world.handles.end();) {
    it = it->second.root == graph ? world.handles.erase(it) : std::next(it);
  }
  world.graphs.erase(graph);
  delete graph;
  return 0;
}

// ---- For the test -------------------------------------------------------------------------------

// What torch would have captured: nodes one after the other; kernels call `host` with the tag.
EXPORT Graph fake_captured(const int* types, int count, HostCall host, int tag) {
  auto* graph = new CUgraph_st;
  for (int i = 0; i < count; ++i) {
    auto node = std::make_unique<CUgraphNode_st>();
    node->type = static_cast<NodeType>(types[i]);
    node->host = host;
    node->tag = tag;
    if (i > 0) node->dependencies.push_back(graph->nodes.back().get());
    if (node->type == kGraphNode) {
      node->inner.reset(fake_captured(types, i, host, tag));
      world.graphs.erase(node->inner.get());
    }
    graph->nodes.push_back(std::move(node));
  }
  world.graphs.insert(graph);
  return graph;
}

EXPORT void fake_release(Graph graph) {
  world.graphs.erase(graph);
  delete graph;
}

static void set_conditional(Handle handle, unsigned value) {
  const auto found = world.handles.find(handle);
  if (found == world.handles.end() || found->second.root != world.running) {
    complain("a value is set for a handle of another graph");
    return;
  }
  found->second.is_set = true;
  found->second.value = value;
}

// A world without graphs, and a context that is current on this thread.
EXPORT void fake_begin() {
  world = World();
  contexts = {&primary};
  emulator_on_conditional(set_conditional);
}

EXPORT void fake_no_context() { contexts.clear(); }
EXPORT int fake_contexts() { return static_cast<int>(contexts.size()); }
EXPORT void fake_version(int version) { world.version = version; }
EXPORT void fake_fail_at(int call) {
  world.calls = 0;
  world.fail_at = call;
  world.failed.clear();
}
EXPORT int fake_calls() { return world.calls; }
EXPORT const char* fake_failed() { return world.failed.c_str(); }
EXPORT const char* fake_complaint() { return world.complaint.c_str(); }
EXPORT int fake_alive() {
  return static_cast<int>(world.graphs.size() + world.execs.size() + world.handles.size());
}
EXPORT int fake_capture_mode() { return world.capture_mode; }
EXPORT Stream fake_stream() { return world.stream; }
