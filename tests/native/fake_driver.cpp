// Contexts, and building graphs.
#include "fake_driver.h"

CUctx_st primary;
World world;
thread_local std::vector<Context> contexts;

Result complain(const std::string& text) {
  world.complaint += text + "\n";
  return kInvalidValue;
}

bool fails(const char* name) {
  if (++world.calls != world.fail_at) return false;
  world.failed = name;
  return true;
}

// ---- What does not concern graphs ---------------------------------------------------------------

EXPORT Result cuDriverGetVersion(int* version) {
  *version = world.version;
  return 0;
}

EXPORT Result cuGetErrorName(Result error, const char** name) {
  *name = error == kOutOfMemory    ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == kInvalidValue ? "CUDA_ERROR_INVALID_VALUE"
                                   : nullptr;
  return *name ? 0 : kInvalidValue;
}

EXPORT Result cuGetErrorString(Result error, const char** text) {
  *text = error == kOutOfMemory    ? "out of memory"
          : error == kInvalidValue ? "invalid argument"
                                   : nullptr;
  return *text ? 0 : kInvalidValue;
}

EXPORT Result cuCtxGetCurrent(Context* context) {
  MAY_FAIL;
  *context = contexts.empty() ? nullptr : contexts.back();
  return 0;
}

EXPORT Result cuCtxPushCurrent_v2(Context context) {
  MAY_FAIL;
  if (context != &primary) return complain("an unknown context is made current");
  contexts.push_back(context);
  return 0;
}

EXPORT Result cuCtxPopCurrent_v2(Context* context) {
  MAY_FAIL;
  if (contexts.empty()) return kInvalidContext;
  *context = contexts.back();
  contexts.pop_back();
  return 0;
}

EXPORT Result cuThreadExchangeStreamCaptureMode(CaptureMode* mode) {
  std::swap(*mode, world.capture_mode);
  return 0;
}

// ---- Building -----------------------------------------------------------------------------------

static bool holds(const CUgraph_st& graph, const CUgraph_st* wanted) {
  if (&graph == wanted) return true;
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [&](const auto& node) {
    return node->type == kConditionalNode && node->inner && holds(*node->inner, wanted);
  });
}

// Live: made and not destroyed, or a body inside of such a graph.
static bool is_live(Graph graph) {
  return std::any_of(world.graphs.begin(), world.graphs.end(),
                     [&](Graph root) { return holds(*root, graph); });
}

bool has_type(const CUgraph_st& graph, const std::set<NodeType>& types) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [&](const auto& node) {
    return types.count(node->type) || (node->inner && has_type(*node->inner, types));
  });
}

static std::unique_ptr<CUgraph_st> cloned(const CUgraph_st& graph) {
  auto copy = std::make_unique<CUgraph_st>();
  std::map<Node, Node> images;
  for (const auto& node : graph.nodes) {
    auto image = std::make_unique<CUgraphNode_st>();
    image->type = node->type;
    image->host = node->host;
    image->tag = node->tag;
    if (node->inner) image->inner = cloned(*node->inner);
    for (const Node dependency : node->dependencies) {
      image->dependencies.push_back(images.at(dependency));
    }
    images[node.get()] = image.get();
    copy->nodes.push_back(std::move(image));
  }
  return copy;
}

EXPORT Result cuGraphCreate(Graph* graph, unsigned flags) {
  MAY_FAIL;
  if (flags != 0) return complain("flags of cuGraphCreate must be 0");
  *graph = *world.graphs.insert(new CUgraph_st).first;
  return 0;
}

EXPORT Result cuGraphConditionalHandleCreate(Handle* handle, Graph graph, Context context,
                                             unsigned value, unsigned flags) {
  MAY_FAIL;
  if (!world.graphs.count(graph)) return complain("a handle for a graph that is none");
  if (context != &primary) return complain("a handle without its context");
  if (value != 0 || flags != 0) return complain("a default value that is not understood here");
  *handle = world.next_handle++;
  world.handles[*handle] = {graph, context};
  return 0;
}

static Result add_kernel(CUgraphNode_st& node, const KernelParams& params) {
  const auto* function = reinterpret_cast<const EmulatedFunction*>(params.function);
  if (!function) return complain("a kernel without a function");
  if (params.grid[1] != 1 || params.grid[2] != 1 || params.block[1] != 1 || params.block[2] != 1) {
    return complain("the emulator has lines of blocks and threads");
  }
  if (params.extra || params.kernel || params.context) return complain("unused parameters");
  node.function = function;
  node.blocks = params.grid[0];
  node.threads = params.block[0];
  node.shared_bytes = params.shared_bytes;
  for (size_t i = 0; i < function->parameters; ++i) {  // copied: the caller's may be gone
    const char* bytes = static_cast<const char*>(params.arguments[i]);
    node.arguments.emplace_back(bytes, bytes + function->sizes[i]);
  }
  return 0;
}

static Result add_child(CUgraphNode_st& node, const ChildParams& params) {
  if (params.ownership != 0) return complain("ownership that 12.4 does not know");
  if (!world.graphs.count(params.graph)) return complain("a child graph that is none");
  if (has_type(*params.graph, {kConditionalNode, kAllocNode, kFreeNode})) {
    return complain("a child graph with memory or conditional nodes");
  }
  node.inner = cloned(*params.graph);
  return 0;
}

static Result add_conditional(CUgraphNode_st& node, Graph graph, ConditionalParams& params) {
  const auto found = world.handles.find(params.handle);
  if (found == world.handles.end()) return complain("a conditional node without a handle");
  if (found->second.root != graph->root) return complain("a handle of another graph");
  if (found->second.has_node) return complain("a handle with two nodes");
  if (found->second.context != params.context) return complain("a handle of another context");
  if (params.type != kIf && params.type != kWhile) return complain("a node newer than 12.4");
  if (params.size != 1 || params.bodies) return complain("conditional nodes of 12.4 have one body");
  found->second.has_node = true;
  node.handle = params.handle;
  node.condition = params.type;
  node.inner = std::make_unique<CUgraph_st>();
  node.inner->root = graph->root;
  node.body = node.inner.get();
  params.bodies = &node.body;
  return 0;
}

// Beyond the member of the union that is used everything must be 0.
static bool is_clean(const NodeParams& params, size_t used) {
  const char* bytes = reinterpret_cast<const char*>(&params);
  const size_t begin = offsetof(NodeParams, padding);
  const auto zero = [&](size_t from, size_t to) {
    return std::all_of(bytes + from, bytes + to, [](char byte) { return byte == 0; });
  };
  return zero(offsetof(NodeParams, reserved0), begin) && zero(begin + used, sizeof params);
}

EXPORT Result cuGraphAddNode_v2(Node* added, Graph graph, const Node* dependencies,
                                const void* edges, size_t count, NodeParams* params) {
  MAY_FAIL;
  if (!is_live(graph)) return complain("a node for a graph that is none");
  if (edges) return complain("edges with data");
  auto node = std::make_unique<CUgraphNode_st>();
  for (const Node dependency : std::vector<Node>(dependencies, dependencies + count)) {
    const auto same = [&](const auto& known) { return known.get() == dependency; };
    const bool known = std::any_of(graph->nodes.begin(), graph->nodes.end(), same);
    const auto& seen = node->dependencies;
    if (!known || std::count(seen.begin(), seen.end(), dependency)) {
      return complain("a dependency that is not in the graph, or twice");
    }
    node->dependencies.push_back(dependency);
  }
  node->type = params->type;
  const size_t used = node->type == kKernelNode  ? sizeof(KernelParams)
                      : node->type == kGraphNode ? sizeof(ChildParams)
                                                 : sizeof(ConditionalParams);
  if (!is_clean(*params, used)) return complain("unused bytes of a node's parameters are not 0");
  const Result result = node->type == kKernelNode  ? add_kernel(*node, params->kernel)
                        : node->type == kGraphNode ? add_child(*node, params->child)
                        : node->type == kConditionalNode
                            ? add_conditional(*node, graph, params->conditional)
                            : complain("a node of an unknown type");
  if (result == 0) *added = graph->nodes.emplace_back(std::move(node)).get();
  return result;
}

EXPORT Result cuGraphGetNodes(Graph graph, Node* nodes, size_t* count) {
  MAY_FAIL;
  if (!graph) return complain("the nodes of no graph");
  if (nodes) {
    if (*count != graph->nodes.size()) return complain("another number of nodes than there are");
    for (size_t i = 0; i < *count; ++i) nodes[i] = graph->nodes[i].get();
  }
  *count = graph->nodes.size();
  return 0;
}

EXPORT Result cuGraphNodeGetType(Node node, NodeType* type) {
  MAY_FAIL;
  *type = node->type;
  return 0;
}

EXPORT Result cuGraphChildGraphNodeGetGraph(Node node, Graph* graph) {
  MAY_FAIL;
  if (node->type != kGraphNode) return complain("the child graph of a node that has none");
  *graph = node->inner.get();
  return 0;
}
