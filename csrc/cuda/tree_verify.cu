// tree_verify: walk down from the root as long as a child is accepted, emit one more token, advance
// positions (core/tree.h). One launch, a block for each request: which row is next is known only
// when one is decided, so that rows of one request have to wait for each other anyway.
#include "finish.cuh"
#include "ops.h"
#include "tree_rows.cuh"

namespace tapout::cuda {

// Children of the row until one is accepted; the token that is emitted, -1: the row is to be read
// again, and nothing but it counts then.
template <class T>
__device__ inline int32_t step_token(const TreeRequest<T>& request) {
  SHARED(bool, rejected, [1]);
  for (;;) {
    if (threadIdx.x == 0) rejected[0] = rejects_child(request);
    __syncthreads();
    if (!rejected[0]) break;
    after_rejection(request);
  }
  const int32_t node = request.row.node;
  return node >= 0 ? static_cast<int32_t>(request.token(node)) : replacement(request);
}

// How far a walk has come, in shared memory.
struct TreeEnd {
  int32_t accepted;
  int32_t emitted;
  int64_t last;
  Status status;
};

template <class T, bool kGumbel>
__device__ inline Noise noise_of_row(const TreeRequest<T>& request, const TreeEnd& end) {
  if (!kGumbel) return {};
  const TreeVerifyParams& params = request.params;
  const int32_t state = request.row.state;
  return {params.seed[state], offset_position(params.position[state], end.emitted)};
}

// gumbel and greedy: down to the first child that is what the target itself would emit.
template <class T, bool kGumbel>
__device__ inline int32_t step_equal(const TreeRequest<T>& request, const TreeEnd& end) {
  TreeRow<T>& row = request.row;
  int32_t token = row.law.argmax;
  if (kGumbel) {
    token = draw_gumbel(request.target(), row.sampling, request.own(), row.law,
                        noise_of_row<T, kGumbel>(request, end));
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    while (row.node >= 0 && request.token(row.node) != token) {
      const int64_t drafted = request.token(row.node);
      row.bad = drafted < 0 || drafted >= request.params.target.vocab;
      row.node = row.bad ? -1 : request.next_sibling(row.node);
    }
  }
  __syncthreads();
  return token;
}

// By one thread; whether there is another row to read.
template <class T>
__device__ inline bool take_step(const TreeRequest<T>& request, int32_t token, TreeEnd& end) {
  const TreeVerifyParams& params = request.params;
  TreeRow<T>& row = request.row;
  if (row.law.status != Status::kOk) {
    end.status = row.law.status;
    return false;
  }
  if (row.bad) end.status = Status::kBadDraft;
  row.childless = token < 0;
  if (row.childless) return true;
  end.last = token;
  params.tokens[request.b * (params.nodes + 1) + end.emitted++] = token;
  if (row.node < 0) return false;
  params.path[request.b * params.nodes + end.accepted++] = row.node;
  row.at = row.node + 1;
  return true;
}

// From the root, which is where the row is at.
template <class T, bool kGumbel>
__device__ inline void walk(const TreeRequest<T>& request, TreeEnd& end) {
  SHARED(bool, more, [1]);
  do {
    __syncthreads();
    read_row<T, kGumbel>(request, noise_of_row<T, kGumbel>(request, end));
    int32_t token = -1;
    if (request.row.law.status == Status::kOk) {
      const bool by_token = !kGumbel && request.params.rule == Rule::kToken;
      token = by_token ? step_token(request) : step_equal<T, kGumbel>(request, end);
    }
    __syncthreads();
    if (threadIdx.x == 0) more[0] = take_step(request, token, end);
    __syncthreads();
  } while (more[0]);
}

// What is written of a request, by one thread.
__device__ inline void write_end(const TreeVerifyParams& params, int32_t b, int32_t state,
                                 const TreeEnd& end) {
  params.num_accepted[b] = end.accepted;
  params.num_emitted[b] = end.emitted;
  params.last_token[b] = end.last;
  params.status[b] = static_cast<int32_t>(end.status);
  if (state >= 0) params.position[state] = offset_position(params.position[state], end.emitted);
}

template <class T, bool kGumbel>
__global__ void __launch_bounds__(kThreads, 1)
    tree_verify_kernel(const __grid_constant__ TreeVerifyParams params,
                       const __grid_constant__ TreeScratch scratch) {
  SHARED(TreeRow<T>, row, [1]);
  SHARED(TreeEnd, end, [1]);
  SHARED(Rejected, rejected, [kMostNodes]);
  const int32_t b = blockIdx.x, nodes = static_cast<int32_t>(params.nodes);
  for (int32_t i = threadIdx.x; i <= nodes; i += kThreads) {
    params.tokens[int64_t{b} * (nodes + 1) + i] = -1;
    if (i < nodes) params.path[int64_t{b} * nodes + i] = -1;
  }
  if (threadIdx.x == 0) {
    row[0].state = params.live[b] ? static_cast<int32_t>(state_row(params.rows, b)) : -1;
    row[0].at = 0;
    row[0].childless = false;
    const bool whole = row[0].state < 0 || params.valid[b];
    end[0] = {0, 0, 0, whole ? Status::kOk : Status::kBadDraft};
  }
  __syncthreads();
  if (row[0].state >= 0) walk<T, kGumbel>({params, scratch, row[0], rejected, b}, end[0]);
  if (threadIdx.x == 0) write_end(params, b, row[0].state, end[0]);
}

static TreeScratch carve_tree(Carver& carver, const TreeVerifyParams& params) {
  TreeScratch scratch = {};
  scratch.rows =
      carve(carver, params.batch, params.target.vocab, wanted_by(params.sampling, params.rule));
  scratch.excess = carver.take<float>(params.batch * scratch.rows.chunks);
  return scratch;
}

WorkspaceSize tree_verify_workspace(const TreeVerifyParams& params) {
  Carver carver = {nullptr};
  carve_tree(carver, params);
  return {carver.used, 0};
}

cudaError_t tree_verify(const TreeVerifyParams& params, Workspace space, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  Carver carver = {space.bytes};
  const TreeScratch scratch = carve_tree(carver, params);
  return with_element_type(params.target.dtype, [&](auto type) {
    using T = decltype(type);
    const bool gumbel = params.rule == Rule::kGumbel;
    return launch(gumbel ? tree_verify_kernel<T, true> : tree_verify_kernel<T, false>,
                  static_cast<unsigned>(params.batch), kThreads, LaunchOptions{queue.stream},
                  params, scratch);
  });
}

}  // namespace tapout::cuda
