// tree_layout: depths, links and ancestors from parent pointers (core/tree.h); a block for each
// request, one launch. Nodes are taken 32 at a time, a warp and a word of bits for each such group:
//   inside a group ancestors are found by doubling, so that a word holds all of them there are;
//   the walk from group to group then has at most 32 steps, whatever the depth. A depth is a number
//   of bits.
#include "../core/rng.h"
#include "../core/tree.h"
#include "block.cuh"
#include "ops.h"

namespace tapout::cuda {

constexpr int32_t kGroupNodes = 32;
constexpr int32_t kMostWords = kMostNodes / kGroupNodes;

struct LayoutRequest {
  const TreeLayoutParams& params;
  int64_t b;
  int32_t nodes;
  int32_t words;
  int32_t* parents;  // shared, [nodes] of this request; of absent nodes the root
  uint32_t* within;  // shared, [nodes] ancestors in the node's own group, itself with them
};

// Nodes before the first absent one, or -1 where the pointers are no tree; by the whole block, a
// thread the same nodes throughout.
__device__ inline int32_t tree_size(const LayoutRequest& request) {
  SHARED(uint32_t, firsts, [kWarps]);
  SHARED(uint32_t, flaws, [kWarps]);
  uint32_t first = request.nodes;
  for (int32_t i = threadIdx.x; i < request.nodes; i += kThreads) {
    request.parents[i] = request.params.parents[request.b * request.nodes + i];
    if (request.parents[i] == kAbsent) first = min(first, static_cast<uint32_t>(i));
  }
  const int32_t size = static_cast<int32_t>(block_min(first, firsts));
  uint32_t right = 1;
  for (int32_t i = threadIdx.x; i < request.nodes; i += kThreads) {
    const int32_t parent = request.parents[i];
    if (i < size ? !is_parent(parent, i) : parent != kAbsent) right = 0;
  }
  return block_min(right, flaws) ? size : -1;
}

// Ancestors inside one group, by one warp.
__device__ inline void look_within(const LayoutRequest& request, int32_t group) {
  const int32_t first = group * kGroupNodes, node = first + lane_id();
  int32_t above = node < request.nodes ? request.parents[node] - first : -1;
  uint32_t seen = 1u << lane_id();
  for (int reach = 1; reach < kGroupNodes; reach *= 2) {
    const int from = above >= 0 ? above : lane_id();
    const uint32_t theirs = shuffle_from(seen, from);
    const int32_t beyond = shuffle_from(above, from);
    if (above < 0) continue;
    seen |= theirs;
    above = beyond;
  }
  if (node < request.nodes) request.within[node] = seen;
}

// The next ancestor outside the group of `node`, -1: the root.
__device__ inline int32_t leave_group(const LayoutRequest& request, int32_t node) {
  return request.parents[node / kGroupNodes * kGroupNodes + __ffs(request.within[node]) - 1];
}

// Depth and ancestors of the nodes of a group, by one warp; `tile` is its own, of shared memory.
__device__ inline void write_group(const LayoutRequest& request, int32_t group, int32_t size,
                                   uint32_t* tile) {
  const TreeLayoutParams& params = request.params;
  const int32_t words = request.words, pitch = words | 1;  // odd: lanes in banks of their own
  const int32_t first = group * kGroupNodes, node = first + lane_id();
  uint32_t* const mine = tile + lane_id() * pitch;
  for (int32_t w = 0; w < words; ++w) mine[w] = 0;
  int32_t depth = 0;
  for (int32_t at = node < request.nodes ? node : -1; at >= 0; at = leave_group(request, at)) {
    mine[at / kGroupNodes] = request.within[at];
    depth += __popc(request.within[at]);
  }
  if (node >= size) depth = 0;
  if (node < request.nodes) {
    const int64_t position = params.position ? params.position[request.b] : 0;
    params.depth[request.b * request.nodes + node] = depth;
    params.position_ids[request.b * (request.nodes + 1) + node + 1] =
        offset_position(position, depth);
  }
  __syncwarp();
  const int32_t count = min(kGroupNodes, request.nodes - first) * words;
  int32_t* to = params.ancestors + (request.b * request.nodes + first) * words;
  for (int32_t i = lane_id(); i < count; i += 32) {
    to[i] = static_cast<int32_t>(tile[i / words * pitch + i % words]);
  }
  __syncwarp();
}

// Nodes of a group that hang on the row of `node`, as bits of lanes.
__device__ inline uint32_t siblings_in_group(const LayoutRequest& request, int32_t group,
                                             int32_t size, int32_t node) {
  uint32_t same = 0;
  const int32_t first = group * kGroupNodes, last = min(kGroupNodes, size - first);
  for (int32_t lane = 0; lane < last; ++lane) {
    same |= uint32_t{request.parents[first + lane] == request.parents[node]} << lane;
  }
  return same;
}

// Links, by one warp: groups from the last to the first, each put before what hangs on a row
// already. `first_child` is shared, [nodes + 1] of -1.
__device__ inline void link_rows(const LayoutRequest& request, int32_t size, int32_t* first_child) {
  for (int32_t group = request.words - 1; group >= 0; --group) {
    const int32_t first = group * kGroupNodes, node = first + lane_id();
    const uint32_t same = node < size ? siblings_in_group(request, group, size, node) : 0;
    const uint32_t later = same & ~((2u << lane_id()) - 1u), own = 1u << lane_id();
    int32_t next = -1;
    if (node < size) {
      next = later ? first + __ffs(later) - 1 : first_child[request.parents[node] + 1];
    }
    __syncwarp();
    if (node < size && (same & (own - 1u)) == 0) first_child[request.parents[node] + 1] = node;
    __syncwarp();
    if (node < request.nodes) {
      request.params.next_sibling[request.b * request.nodes + node] = next;
    }
  }
}

__global__ void __launch_bounds__(kThreads) tree_layout_kernel(TreeLayoutParams params) {
  SHARED(int32_t, parents, [kMostNodes]);
  SHARED(uint32_t, within, [kMostNodes]);
  SHARED(int32_t, first_child, [kMostNodes + 1]);
  SHARED(uint32_t, tiles, [kWarps * kGroupNodes * (kMostWords + 1)]);
  const int64_t b = blockIdx.x;
  const LayoutRequest request = {params,
                                 b,
                                 static_cast<int32_t>(params.nodes),
                                 static_cast<int32_t>(bit_words(params.nodes)),
                                 parents,
                                 within};
  const int32_t found = tree_size(request), size = found < 0 ? 0 : found;
  for (int32_t i = threadIdx.x; i <= request.nodes; i += kThreads) {
    first_child[i] = -1;
    if (i >= size && i < request.nodes) parents[i] = kRootParent;
  }
  __syncthreads();
  for (int32_t g = warp_id(); g < request.words; g += kWarps) look_within(request, g);
  __syncthreads();
  uint32_t* const tile = tiles + warp_id() * kGroupNodes * (kMostWords + 1);
  for (int32_t g = warp_id(); g < request.words; g += kWarps) write_group(request, g, size, tile);
  if (warp_id() == kWarps - 1) link_rows(request, size, first_child);  // it has the fewest groups
  __syncthreads();
  for (int32_t r = threadIdx.x; r <= request.nodes; r += kThreads) {
    params.first_child[b * (request.nodes + 1) + r] = first_child[r];
  }
  if (threadIdx.x > 0) return;
  params.position_ids[b * (request.nodes + 1)] = params.position ? params.position[b] : 0;
  params.size[b] = size;
  params.valid[b] = found >= 0;
}

WorkspaceSize tree_layout_workspace(const TreeLayoutParams&) { return {0, 0}; }

cudaError_t tree_layout(const TreeLayoutParams& params, Workspace, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  return launch(tree_layout_kernel, static_cast<unsigned>(params.batch), kThreads, {queue.stream},
                params);
}

}  // namespace tapout::cuda
