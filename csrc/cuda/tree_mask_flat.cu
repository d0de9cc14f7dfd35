// tree_mask_flat: masks of a ragged batch one after the other; one launch. What the call before has
// written becomes ones again, but for what this one writes: no element has two writers, so the two
// need no order. An element is an entry, or a byte of eight; the prefixes are not visited.
#include "../core/tree.h"
#include "block.cuh"
#include "finish.cuh"
#include "ops.h"

namespace tapout::cuda {

constexpr int64_t kFlatBlocks = 256;  // at most: each of them adds up all lengths

// Where the segments of one call are; two of them for each block, in scratch.
struct Segments {
  const int32_t* past;  // [B] as they are given
  int32_t least;        // below it nothing was written
  int32_t* start;       // [B+1] elements
};

struct FlatMask {
  const TreeMaskFlatParams& params;
  int64_t unit;  // entries of an element
  int64_t most;  // the longest prefix there is room for
  Segments before;
  Segments now;

  __device__ int64_t prefix(const Segments& segments, int64_t b) const {
    const int64_t past = segments.past[b];
    return past < 0 ? 0 : past > most ? most : past;
  }
  __device__ int64_t width(const Segments& segments, int64_t b) const {
    return prefix(segments, b) + params.rows;
  }
};

// By the whole block.
__device__ inline void add_up(const FlatMask& mask, const Segments& segments) {
  SHARED(int32_t, sums, [kWarps]);
  const int32_t batch = static_cast<int32_t>(mask.params.batch);
  const int32_t each = ceil_divide(batch, kThreads), first = threadIdx.x * each;
  const int32_t last = min(first + each, batch);
  const auto elements = [&](int32_t b) {
    return ceil_divide(mask.params.rows * mask.width(segments, b), mask.unit);
  };
  int32_t own = 0;
  for (int32_t b = first; b < last; ++b) own += elements(b);
  const Running<int32_t> running = block_running(own, sums);
  int32_t at = running.before;
  for (int32_t b = first; b < last; ++b) {
    segments.start[b] = at;
    at += elements(b);
  }
  if (threadIdx.x == 0) segments.start[batch] = running.total;
  __syncthreads();
}

// The request whose segment holds an element, B behind the last one.
__device__ inline int32_t request_of(const FlatMask& mask, const Segments& segments, int64_t at) {
  int32_t low = 0, high = static_cast<int32_t>(mask.params.batch);
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (segments.start[middle + 1] <= at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// An entry of a segment: of the prefix where column < 0, behind all rows where row >= Q.
struct Entry {
  int64_t row;
  int64_t column;
};

__device__ inline Entry entry_at(const FlatMask& mask, const Segments& segments, int32_t b,
                                 int64_t index) {
  const int64_t width = mask.width(segments, b);
  return {index / width, index % width - mask.prefix(segments, b)};
}

// Which entries of an element of request b, or of whichever has it, are those of trees, as bits.
__device__ inline uint32_t tree_entries(const FlatMask& mask, const Segments& segments, int32_t b,
                                        int64_t element) {
  uint32_t found = 0;
  for (int64_t i = 0; i < mask.unit; ++i) {
    const int64_t index = (element - segments.start[b]) * mask.unit + i;
    const Entry entry = entry_at(mask, segments, b, index);
    found |= uint32_t{entry.row < mask.params.rows && entry.column >= 0} << i;
  }
  return found;
}

__device__ inline uint32_t tree_entries(const FlatMask& mask, const Segments& segments,
                                        int64_t element) {
  const int32_t b = request_of(mask, segments, element);
  return b < mask.params.batch && segments.past[b] >= segments.least
             ? tree_entries(mask, segments, b, element)
             : 0;
}

// The entries of trees of an element of request b, as bits of who sees whom.
__device__ inline uint32_t seen_entries(const FlatMask& mask, int32_t b, int64_t element) {
  const TreeMaskFlatParams& params = mask.params;
  const int32_t* ancestors = params.ancestors + b * params.nodes * bit_words(params.nodes);
  uint32_t found = 0;
  for (int64_t i = 0; i < mask.unit; ++i) {
    const int64_t index = (element - mask.now.start[b]) * mask.unit + i;
    const Entry entry = entry_at(mask, mask.now, b, index);
    if (entry.row >= params.rows || entry.column < 0) continue;
    const uint32_t word =
        visible_word(ancestors, params.nodes, params.rows, entry.row, entry.column >> 5);
    found |= (word >> (entry.column & 31) & 1u) << i;
  }
  return found;
}

// `ours`: the entries that become `bits`.
__device__ inline void write_element(const FlatMask& mask, int64_t element, uint32_t ours,
                                     uint32_t bits) {
  uint8_t& byte = mask.params.mask[element];
  const uint32_t all = mask.params.packed ? 0xFFu : 1u;
  const uint32_t kept = ours == all ? 0u : byte & ~ours;
  byte = static_cast<uint8_t>(kept | (bits & ours));
}

// One row of a tree, of this call or of the one before; by one warp. An element that rows share is
// the first one's, one that both calls wrote this call's.
__device__ inline void write_row(const FlatMask& mask, const Segments& segments, bool restore,
                                 int32_t b, int64_t q) {
  const int64_t width = mask.width(segments, b), begin = segments.start[b] * mask.unit + q * width;
  const int64_t first = (begin + width - mask.params.rows) / mask.unit;
  const int64_t last = (begin + width - 1) / mask.unit;
  const bool shared = q > 0 && begin > first * mask.unit;
  const uint32_t all = mask.params.packed ? 0xFFu : 1u;
  for (int64_t at = first + shared + lane_id(); at <= last; at += 32) {
    if (restore) {
      if (tree_entries(mask, mask.now, at) != 0) continue;
      const uint32_t old = tree_entries(mask, mask.before, b, at);
      write_element(mask, at, old, old);
    } else {
      const uint32_t trees = tree_entries(mask, mask.now, b, at);
      const uint32_t old = trees == all ? 0 : tree_entries(mask, mask.before, at) & ~trees;
      write_element(mask, at, trees | old, seen_entries(mask, b, at) | old);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    tree_mask_flat_kernel(TreeMaskFlatParams params, int32_t* starts, uint32_t* ticket) {
  const int64_t batch = params.batch, unit = params.packed ? 8 : 1;
  int32_t* own = starts + blockIdx.x * 2 * (batch + 1);
  const FlatMask mask = {params,
                         unit,
                         params.size / batch * unit / params.rows - params.rows,
                         {params.written, 0, own},
                         {params.past, INT32_MIN, own + batch + 1}};
  add_up(mask, mask.before);
  add_up(mask, mask.now);
  const int64_t rows = batch * params.rows, step = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + warp_id(); i < 2 * rows; i += step) {
    const bool restore = i >= rows;
    const int64_t row = restore ? i - rows : i;
    const int32_t b = static_cast<int32_t>(row / params.rows);
    if (restore && params.written[b] < 0) continue;
    write_row(mask, restore ? mask.before : mask.now, restore, b, row % params.rows);
  }
  if (!arrives_last(ticket, gridDim.x)) return;  // until then others read `written`
  for (int64_t b = threadIdx.x; b <= batch; b += kThreads) {
    params.start[b] = mask.now.start[b];
    if (b < batch) params.written[b] = static_cast<int32_t>(mask.prefix(mask.now, b));
  }
}

static int64_t flat_blocks(const TreeMaskFlatParams& params) {
  const int64_t wanted = ceil_divide(2 * params.batch * params.rows, kWarps);
  return wanted < kFlatBlocks ? wanted : kFlatBlocks;
}

WorkspaceSize tree_mask_flat_workspace(const TreeMaskFlatParams& params) {
  return {flat_blocks(params) * 2 * (params.batch + 1) * 4, 1};
}

cudaError_t tree_mask_flat(const TreeMaskFlatParams& params, Workspace space, Queue queue) {
  return launch(tree_mask_flat_kernel, static_cast<unsigned>(flat_blocks(params)), kThreads,
                {queue.stream}, params, reinterpret_cast<int32_t*>(space.bytes), space.tickets);
}

}  // namespace tapout::cuda
