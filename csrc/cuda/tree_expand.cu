// tree_expand: the children of every row of a level, then the rows of the next one (core/tree.h);
// one launch. The last block of a row chooses its children, the last row of a request ends the
// level.
#include "finish.cuh"
#include "ops.h"
#include "tree_children.cuh"
#include "tree_level.cuh"

namespace tapout::cuda {

struct ExpandTickets {
  uint32_t* rows;      // [B, W]
  uint32_t* requests;  // [B]
};

__device__ inline void clear_children(const TreeExpandParams& params, const ExpandRow& at) {
  const int64_t parent = at.node >= kRootParent ? at.node : kAbsent;
  for (int64_t c = threadIdx.x; c < at.count; c += kThreads) {
    const int64_t child = at.b * params.nodes + at.first + c;
    params.tokens[child] = -1;
    params.parents[child] = static_cast<int32_t>(parent);
    params.score[child] = -INFINITY;
  }
  __syncthreads();
}

// What the children are drawn from, at the row of their parent; `column`: the first of them.
template <class T>
__device__ inline void keep_row(const TreeExpandParams& params, const ExpandRow& at,
                                const ChildRow<T>& child, int32_t column) {
  const int64_t kept = at.b * (params.nodes + 1) + at.node + 1;
  const Row<T>& row = child.row;
  if (params.stats) {
    double logprob = 0.0;
    if (lane_id() == 0) logprob = log_probability_of(row, child.sampling, child.law, column);
    write_stats(params.stats + kept * kStatsColumns, child.sampling, child.law, logprob, 0.0f);
  }
  if (!params.kept_logits) return;
  T* to = static_cast<T*>(params.kept_logits) + kept * row.vocab;
  for (int32_t c = warp_id(); c < num_chunks(row.vocab); c += kWarps) {
    const Place place = place_of_chunk(c);
    LaneChunk<T> chunk = load_chunk(row, place);
    if (row.mask) apply_mask(row, place, chunk);
    keep_chunk(chunk, place, row.vocab, to);
  }
}

// By one thread.
template <class T>
__device__ inline void write_child(const TreeExpandParams& params, const ExpandRow& at,
                                   const ChildRow<T>& child, int32_t column) {
  const int64_t base = at.b * params.nodes, to = base + at.first + child.count;
  const double above = at.node >= 0 ? params.score[base + at.node] : 0.0;
  const double logprob = log_probability_of(child.row, child.sampling, child.law, column);
  params.tokens[to] = target_id(child.row, column);
  params.score[to] = static_cast<float>(above + logprob);
}

template <class T>
__device__ inline void choose_children(const TreeExpandParams& params, const ExpandRow& at,
                                       ChildRow<T> child) {
  if (child.law.status != Status::kOk) {
    const int64_t kept = at.b * (params.nodes + 1) + at.node + 1;
    if (params.stats) write_invalid_stats(params.stats + kept * kStatsColumns);
    return;
  }
  if (params.drawn && child.sampling.filtered()) record_kept(child);
  while (child.count < at.count) {
    const int32_t column = choose_child(params, at, child);
    if (child.count == 0) keep_row(params, at, child, column);
    if (column < 0) return;
    if (threadIdx.x == 0) write_child(params, at, child, column);
    if (child.count + 1 == at.count) return;
    take_child(child, column);
  }
}

// By the last block of a row. What it knows of the row is in shared memory: that leaves registers
// to the chunks that are read again.
template <class T>
__device__ inline void expand_row_of(const TreeExpandParams& params, const RowScratch& own,
                                     int32_t b, int32_t w) {
  SHARED(ExpandRow, at, [1]);
  SHARED(RowSampling, sampling, [1]);
  SHARED(Law, law, [1]);
  SHARED(int32_t, taken, [kMostNodes]);
  const Row<T> row = row_at<T>(params.logits, params.mask, params.d2t, b, w);
  if (threadIdx.x == 0) {
    at[0] = expand_row(params, b, w);
    sampling[0] = row_sampling(params.sampling, at[0].state, Rule::kToken, row.vocab);
  }
  __syncthreads();
  clear_children(params, at[0]);
  const Law found = finish_row<T, true>(row, sampling[0], own);
  if (threadIdx.x == 0) law[0] = found;
  __syncthreads();
  choose_children<T>(params, at[0], {row, own, sampling[0], law[0], taken, 0});
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T, true, false>)
    tree_expand_kernel(const __grid_constant__ TreeExpandParams params,
                       const __grid_constant__ RowsScratch scratch, ExpandTickets tickets,
                       Split split) {
  const int32_t index = blockIdx.x / split.blocks, part = blockIdx.x % split.blocks;
  const int32_t width = static_cast<int32_t>(params.beam_rows), b = index / width;
  const int32_t w = index % width;
  const ExpandRow at = expand_row(params, b, w);
  if (at.state < 0) {
    if (part == 0 && w == 0) end_level(params, b, false);
    return;
  }
  if (at.exists) {
    const Row<T> row = row_at<T>(params.logits, params.mask, params.d2t, b, w);
    const int32_t first = part * split.chunks;
    scan_row<T, true, false>(row, row_sampling(params.sampling, at.state, Rule::kToken, row.vocab),
                             scratch.row(index), Noise{}, nullptr, first, first + split.chunks);
    if (!arrives_last(tickets.rows + index, split.blocks)) return;
    expand_row_of<T>(params, scratch.row(index), b, w);
  } else {
    if (part != 0) return;
    clear_children(params, at);
  }
  if (!arrives_last(tickets.requests + b, width)) return;
  end_level(params, b, true);
}

static int64_t num_rows(const TreeExpandParams& params) { return params.batch * params.beam_rows; }

static RowsScratch carve_rows(Carver& carver, const TreeExpandParams& params) {
  return carve(carver, num_rows(params), params.logits.vocab,
               wanted_by(params.sampling, Rule::kToken));
}

WorkspaceSize tree_expand_workspace(const TreeExpandParams& params) {
  Carver carver = {nullptr};
  carve_rows(carver, params);
  return {carver.used, num_rows(params) + params.batch};
}

cudaError_t tree_expand(const TreeExpandParams& params, Workspace space, Queue queue) {
  const int64_t rows = num_rows(params);
  if (rows == 0) return cudaSuccess;
  Carver carver = {space.bytes};
  const RowsScratch scratch = carve_rows(carver, params);
  const Split split = split_rows(rows, params.logits.vocab, queue.multiprocessors);
  return with_element_type(params.logits.dtype, [&](auto type) {
    return launch(tree_expand_kernel<decltype(type)>, static_cast<unsigned>(rows * split.blocks),
                  kThreads, LaunchOptions{queue.stream}, params, scratch,
                  ExpandTickets{space.tickets, space.tickets + rows}, split);
  });
}

}  // namespace tapout::cuda
