// A stand-in for CUDA's driver: the calls that csrc/host/cuda_driver.h wants, as strict as their
// documentation. Graphs are kept as they are described and run on the host: kernels are those of
// the emulator (tests/emulation), what was "captured" calls back into the test.
//
// What is wrong is CUDA_ERROR_INVALID_VALUE, and said by fake_complaint().
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../../csrc/host/cuda_driver.h"
#include "../emulation/emulated_runtime.h"

using namespace tapout::cuda_driver;
using HostCall = void (*)(int tag);

struct CUctx_st {};

struct CUgraphNode_st {
  NodeType type = kEmptyNode;
  std::vector<Node> dependencies;
  HostCall host = nullptr;  // of a captured kernel
  int tag = 0;
  const EmulatedFunction* function = nullptr;
  unsigned blocks = 0, threads = 0, shared_bytes = 0;
  std::vector<std::vector<char>> arguments;
  std::unique_ptr<CUgraph_st> inner;  // of a child graph or of a conditional node
  Graph body = nullptr;               // the same, where the driver's array of bodies would be
  Handle handle = 0;
  ConditionalType condition = kIf;
};

struct CUgraph_st {
  Graph root = this;  // of a body: the graph its conditional node is in
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
  Exec exec = nullptr;
};

struct CUgraphExec_st {
  Graph graph;
};

struct Conditional {
  Graph root;
  Context context;
  bool has_node = false;
  bool is_set = false;  // in this launch
  unsigned value = 0;
};

struct World {
  int version = 13000;
  int calls = 0, fail_at = 0;
  std::string failed, complaint;
  std::set<Graph> graphs;
  std::set<Exec> execs;
  std::map<Handle, Conditional> handles;
  Handle next_handle = 0x100000001;  // more than 32 bits
  CaptureMode capture_mode = {};
  Graph running = nullptr;
  Stream stream = nullptr;
};

extern CUctx_st primary;
extern World world;
extern thread_local std::vector<Context> contexts;

constexpr Result kInvalidValue = 1, kOutOfMemory = 2, kInvalidContext = 201;

Result complain(const std::string& text);
// Counts a call; whether it is the one that fails.
bool fails(const char* name);
// Whether the graph, or a child or body in it, has a node of one of these types.
bool has_type(const CUgraph_st& graph, const std::set<NodeType>& types);

#define EXPORT extern "C" __attribute__((visibility("default")))
#define MAY_FAIL \
  if (fails(__func__)) return kOutOfMemory
