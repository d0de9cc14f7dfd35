// The calls of CUDA's driver that a graph of a round needs, found in the driver's library when they
// are first wanted: this module links nothing of CUDA's, is built without it and loads without it.
// The types are CUDA's, as of 12.4 and unchanged in 13.0; tests/native/driver_types.cpp holds them
// against cuda.h where there is one.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <stdexcept>
#include <string>

struct CUctx_st;
struct CUexec_st;
struct CUfunc_st;
struct CUgraph_st;
struct CUgraphExec_st;
struct CUgraphNode_st;
struct CUstream_st;

namespace tapout {
inline namespace TAPOUT_ISA {
namespace cuda_driver {

constexpr int kOldest = 12040;  // the first whose conditional bodies hold copies and memsets

using Result = int;  // CUresult
using Context = CUctx_st*;
using Graph = CUgraph_st*;
using Node = CUgraphNode_st*;
using Exec = CUgraphExec_st*;
using Function = CUfunc_st*;
using Stream = CUstream_st*;
using Handle = uint64_t;  // CUgraphConditionalHandle

enum NodeType : int32_t {
  kKernelNode = 0,
  kMemcpyNode = 1,
  kMemsetNode = 2,
  kGraphNode = 4,
  kEmptyNode = 5,
  kAllocNode = 10,
  kFreeNode = 11,
  kConditionalNode = 13
};
enum ConditionalType : int32_t { kIf = 0, kWhile = 1 };
enum CaptureMode : int32_t { kRelaxedCapture = 2 };

struct KernelParams {  // CUDA_KERNEL_NODE_PARAMS_v3
  Function function;
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  void** arguments;
  void** extra;
  void* kernel;
  Context context;
};

struct ChildParams {  // CUDA_CHILD_GRAPH_NODE_PARAMS
  Graph graph;
  int32_t ownership;  // since 12.9; 0: cloned, as before
};

struct ConditionalParams {  // CUDA_CONDITIONAL_NODE_PARAMS
  Handle handle;
  ConditionalType type;
  uint32_t size;
  Graph* bodies;  // written by the driver
  Context context;
};

struct NodeParams {  // CUgraphNodeParams: bytes that are not used must be 0
  NodeType type;
  int32_t reserved0[3];
  union {
    int64_t padding[29];
    KernelParams kernel;
    ChildParams child;
    ConditionalParams conditional;
  };
  int64_t reserved1;
};

struct InstantiateParams {  // CUDA_GRAPH_INSTANTIATE_PARAMS
  uint64_t flags;
  Stream upload_stream;
  Node error_node;  // both written by the driver
  int32_t result;
};

class Library {
 public:
  explicit Library(const std::string& path);
  void* find(const char* name) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  void* library_;  // never closed: CUDA outlives whoever used it
};

template <class... A>
struct Call {
  Call(const Library& library, const char* symbol)
      : name(symbol), function(reinterpret_cast<Result (*)(A...)>(library.find(symbol))) {}

  const char* name;
  Result (*function)(A...);
};

// Throws std::runtime_error, which says what is missing, unless the library has every call in a
// version that knows conditional nodes.
class Driver {
 public:
  explicit Driver(const std::string& path);

  // Throws what the driver calls the error and says of it.
  template <class... A, class... B>
  void operator()(const Call<A...>& call, B... arguments) const {
    const Result result = call.function(arguments...);
    if (result != 0) throw std::runtime_error(said(call.name, result));
  }

  std::string said(const char* call, Result result) const;

 private:
  Library library_;

 public:
  Call<Result, const char**> error_name, error_text;
  Call<Context*> current_context, pop_context;
  Call<Context> push_context;
  Call<CaptureMode*> exchange_capture_mode;
  Call<Graph*, unsigned> create_graph;
  Call<Graph> destroy_graph;
  Call<Graph, Node*, size_t*> graph_nodes;
  Call<Node, NodeType*> node_type;
  Call<Node, Graph*> child_graph;
  Call<Handle*, Graph, Context, unsigned, unsigned> create_handle;
  Call<Node*, Graph, const Node*, const void*, size_t, NodeParams*> add_node;
  Call<Exec*, Graph, InstantiateParams*> instantiate;
  Call<Exec, Stream> launch;
  Call<Exec> destroy_exec;
};

// The driver of this path, loaded once.
const Driver& driver_of(const std::string& path);

}  // namespace cuda_driver
}  // namespace TAPOUT_ISA
}  // namespace tapout
