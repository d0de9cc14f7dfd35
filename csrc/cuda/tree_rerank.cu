// tree_rerank: the best candidates whose parents are among them, as a tree (core/tree.h). A block
// for each request, one launch; who is connected to the root is found by doubling.
#include "best.cuh"
#include "ops.h"

namespace tapout::cuda {

constexpr int32_t kUnconnected = -2;  // beside kRootParent

// The rank of a candidate, kUnconnected where it is none of the best. Candidates rise.
__device__ inline int32_t rank_of(const int32_t* candidate, int32_t count, int32_t wanted) {
  int32_t low = 0, high = count;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (candidate[middle] < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && candidate[low] == wanted ? low : kUnconnected;
}

// Follows every chain of parents to its end; `jump` and `other` take turns.
__device__ inline int32_t* find_ends(int32_t* jump, int32_t* other, int32_t count) {
  for (int32_t reach = 1; reach < count; reach *= 2) {
    for (int32_t r = threadIdx.x; r < count; r += kThreads) {
      other[r] = jump[r] >= 0 ? jump[jump[r]] : jump[r];
    }
    __syncthreads();
    int32_t* const last = jump;
    jump = other;
    other = last;
  }
  return jump;
}

// Numbers those that are connected; how many there are.
__device__ inline int32_t number_nodes(const int32_t* ends, int32_t* node, int32_t count) {
  SHARED(int32_t, sums, [kWarps]);
  const int32_t each = ceil_divide(count, kThreads), first = threadIdx.x * each;
  const int32_t last = min(first + each, count);
  int32_t own = 0;
  for (int32_t r = first; r < last; ++r) own += ends[r] == kRootParent;
  const Running<int32_t> running = block_running(own, sums);
  int32_t next = running.before;
  for (int32_t r = first; r < last; ++r) node[r] = ends[r] == kRootParent ? next++ : -1;
  __syncthreads();
  return running.total;
}

__global__ void __launch_bounds__(kThreads) tree_rerank_kernel(TreeRerankParams params) {
  // Of the best candidates, by rank.
  SHARED(int32_t, candidate, [kMostNodes]);
  SHARED(int32_t, parent, [kMostNodes]);  // its rank, kRootParent or kUnconnected
  SHARED(int32_t, jump, [kMostNodes]);    // an ancestor, and `other`
  SHARED(int32_t, other, [kMostNodes]);
  SHARED(int32_t, node, [kMostNodes]);  // what it becomes, -1: none
  const int64_t from = blockIdx.x * params.candidates, to = blockIdx.x * params.nodes;
  const int32_t nodes = static_cast<int32_t>(params.nodes);
  const int32_t count = for_best(
      static_cast<int32_t>(params.candidates), nodes,
      [&](int32_t i) { return params.score[from + i]; },
      [&](int32_t rank, int32_t i) { candidate[rank] = i; });
  for (int32_t r = threadIdx.x; r < count; r += kThreads) {
    const int32_t above = params.parents[from + candidate[r]];
    parent[r] = !is_parent(above, candidate[r]) ? kUnconnected
                : above < 0                     ? kRootParent
                                                : rank_of(candidate, count, above);
    jump[r] = parent[r];
  }
  __syncthreads();
  const int32_t size = number_nodes(find_ends(jump, other, count), node, count);
  for (int32_t r = threadIdx.x; r < count; r += kThreads) {
    if (node[r] < 0) continue;
    params.out_tokens[to + node[r]] = params.tokens[from + candidate[r]];
    params.out_parents[to + node[r]] = parent[r] < 0 ? kRootParent : node[parent[r]];
    params.node[to + node[r]] = candidate[r];
  }
  for (int32_t i = size + threadIdx.x; i < nodes; i += kThreads) {
    params.out_tokens[to + i] = params.node[to + i] = -1;
    params.out_parents[to + i] = kAbsent;
  }
}

WorkspaceSize tree_rerank_workspace(const TreeRerankParams&) { return {0, 0}; }

cudaError_t tree_rerank(const TreeRerankParams& params, Workspace, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  return launch(tree_rerank_kernel, static_cast<unsigned>(params.batch), kThreads, {queue.stream},
                params);
}

}  // namespace tapout::cuda
