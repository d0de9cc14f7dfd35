// csrc/host/cuda_driver.h against cuda.h: sizes, places and numbers of what both declare, and the
// arguments of every call. Nothing here runs.
#include <cuda.h>

#include <tuple>
#include <type_traits>
#include <utility>

#include "../../csrc/host/cuda_driver.h"

using namespace tapout::cuda_driver;

#define SAME_PLACE(Ours, ours, Theirs, theirs)                      \
  static_assert(offsetof(Ours, ours) == offsetof(Theirs, theirs) && \
                sizeof(Ours::ours) == sizeof(Theirs::theirs))

SAME_PLACE(KernelParams, function, CUDA_KERNEL_NODE_PARAMS_v3, func);
static_assert(offsetof(KernelParams, grid) == offsetof(CUDA_KERNEL_NODE_PARAMS_v3, gridDimX));
static_assert(offsetof(KernelParams, block) == offsetof(CUDA_KERNEL_NODE_PARAMS_v3, blockDimX));
SAME_PLACE(KernelParams, shared_bytes, CUDA_KERNEL_NODE_PARAMS_v3, sharedMemBytes);
SAME_PLACE(KernelParams, arguments, CUDA_KERNEL_NODE_PARAMS_v3, kernelParams);
SAME_PLACE(KernelParams, extra, CUDA_KERNEL_NODE_PARAMS_v3, extra);
SAME_PLACE(KernelParams, kernel, CUDA_KERNEL_NODE_PARAMS_v3, kern);
SAME_PLACE(KernelParams, context, CUDA_KERNEL_NODE_PARAMS_v3, ctx);
static_assert(sizeof(KernelParams) == sizeof(CUDA_KERNEL_NODE_PARAMS_v3));

SAME_PLACE(ChildParams, graph, CUDA_CHILD_GRAPH_NODE_PARAMS, graph);
#if CUDA_VERSION >= 12090
SAME_PLACE(ChildParams, ownership, CUDA_CHILD_GRAPH_NODE_PARAMS, ownership);
static_assert(CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE == 0);
static_assert(sizeof(ChildParams) == sizeof(CUDA_CHILD_GRAPH_NODE_PARAMS));
#endif

SAME_PLACE(ConditionalParams, handle, CUDA_CONDITIONAL_NODE_PARAMS, handle);
SAME_PLACE(ConditionalParams, type, CUDA_CONDITIONAL_NODE_PARAMS, type);
SAME_PLACE(ConditionalParams, size, CUDA_CONDITIONAL_NODE_PARAMS, size);
SAME_PLACE(ConditionalParams, bodies, CUDA_CONDITIONAL_NODE_PARAMS, phGraph_out);
SAME_PLACE(ConditionalParams, context, CUDA_CONDITIONAL_NODE_PARAMS, ctx);
static_assert(sizeof(ConditionalParams) == sizeof(CUDA_CONDITIONAL_NODE_PARAMS));

SAME_PLACE(NodeParams, type, CUgraphNodeParams, type);
SAME_PLACE(NodeParams, reserved0, CUgraphNodeParams, reserved0);
SAME_PLACE(NodeParams, padding, CUgraphNodeParams, reserved1);
SAME_PLACE(NodeParams, kernel, CUgraphNodeParams, kernel);
static_assert(offsetof(NodeParams, child) == offsetof(CUgraphNodeParams, graph));
SAME_PLACE(NodeParams, conditional, CUgraphNodeParams, conditional);
SAME_PLACE(NodeParams, reserved1, CUgraphNodeParams, reserved2);
static_assert(sizeof(NodeParams) == sizeof(CUgraphNodeParams));

SAME_PLACE(InstantiateParams, flags, CUDA_GRAPH_INSTANTIATE_PARAMS, flags);
SAME_PLACE(InstantiateParams, upload_stream, CUDA_GRAPH_INSTANTIATE_PARAMS, hUploadStream);
SAME_PLACE(InstantiateParams, error_node, CUDA_GRAPH_INSTANTIATE_PARAMS, hErrNode_out);
SAME_PLACE(InstantiateParams, result, CUDA_GRAPH_INSTANTIATE_PARAMS, result_out);
static_assert(sizeof(InstantiateParams) == sizeof(CUDA_GRAPH_INSTANTIATE_PARAMS));

static_assert(kKernelNode == int{CU_GRAPH_NODE_TYPE_KERNEL});
static_assert(kMemcpyNode == int{CU_GRAPH_NODE_TYPE_MEMCPY});
static_assert(kMemsetNode == int{CU_GRAPH_NODE_TYPE_MEMSET});
static_assert(kGraphNode == int{CU_GRAPH_NODE_TYPE_GRAPH});
static_assert(kEmptyNode == int{CU_GRAPH_NODE_TYPE_EMPTY});
static_assert(kAllocNode == int{CU_GRAPH_NODE_TYPE_MEM_ALLOC});
static_assert(kFreeNode == int{CU_GRAPH_NODE_TYPE_MEM_FREE});
static_assert(kConditionalNode == int{CU_GRAPH_NODE_TYPE_CONDITIONAL});
static_assert(kIf == int{CU_GRAPH_COND_TYPE_IF} && kWhile == int{CU_GRAPH_COND_TYPE_WHILE});
static_assert(kRelaxedCapture == int{CU_STREAM_CAPTURE_MODE_RELAXED});

// Passed in the same way: a pointer for a pointer, a number of the same size for a number.
template <class Ours, class Theirs>
constexpr bool alike() {
  return sizeof(Ours) == sizeof(Theirs) && std::is_pointer_v<Ours> == std::is_pointer_v<Theirs>;
}

template <class... Ours, class... Theirs>
constexpr bool same_call(const Call<Ours...>*, CUresult (*)(Theirs...)) {
  if constexpr (sizeof...(Ours) == sizeof...(Theirs)) {
    return sizeof(Result) == sizeof(CUresult) && (alike<Ours, Theirs>() && ...);
  } else {
    return false;
  }
}

// cuda.h gives a name the version of this toolkit: it is the one that is looked up.
#define TEXT(name) #name
#define NAME_OF(name) TEXT(name)
constexpr bool same_name(const char* left, const char* right) {
  while (*left && *left == *right) ++left, ++right;
  return *left == *right;
}
#define SAME_CALL(member, function, symbol)                                             \
  static_assert(same_call(static_cast<decltype(Driver::member)*>(nullptr), &function)); \
  static_assert(same_name(NAME_OF(function), symbol))

SAME_CALL(error_name, cuGetErrorName, "cuGetErrorName");
SAME_CALL(error_text, cuGetErrorString, "cuGetErrorString");
SAME_CALL(current_context, cuCtxGetCurrent, "cuCtxGetCurrent");
SAME_CALL(pop_context, cuCtxPopCurrent, "cuCtxPopCurrent_v2");
SAME_CALL(push_context, cuCtxPushCurrent, "cuCtxPushCurrent_v2");
SAME_CALL(exchange_capture_mode, cuThreadExchangeStreamCaptureMode,
          "cuThreadExchangeStreamCaptureMode");
SAME_CALL(create_graph, cuGraphCreate, "cuGraphCreate");
SAME_CALL(destroy_graph, cuGraphDestroy, "cuGraphDestroy");
SAME_CALL(graph_nodes, cuGraphGetNodes, "cuGraphGetNodes");
SAME_CALL(node_type, cuGraphNodeGetType, "cuGraphNodeGetType");
SAME_CALL(child_graph, cuGraphChildGraphNodeGetGraph, "cuGraphChildGraphNodeGetGraph");
SAME_CALL(create_handle, cuGraphConditionalHandleCreate, "cuGraphConditionalHandleCreate");
#if CUDA_VERSION >= 13000  // before, the name without a suffix was the one without edges' data
SAME_CALL(add_node, cuGraphAddNode, "cuGraphAddNode_v2");
#else
static_assert(same_call(static_cast<decltype(Driver::add_node)*>(nullptr), &cuGraphAddNode_v2));
#endif
SAME_CALL(instantiate, cuGraphInstantiateWithParams, "cuGraphInstantiateWithParams");
SAME_CALL(launch, cuGraphLaunch, "cuGraphLaunch");
SAME_CALL(destroy_exec, cuGraphExecDestroy, "cuGraphExecDestroy");
