// The children of one row of a draft: its most probable ids, or drawn without replacement. What was
// taken is out of the record of its chunk, which is relative to what is left there; of a row that
// is filtered and drawn from, records are of what is kept. By the block that finishes the row.
#pragma once

#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/tree.h"
#include "draw.cuh"
#include "scan.cuh"

namespace tapout::cuda {

// One row of logits, and where its children go.
struct ExpandRow {
  int64_t b;
  int64_t w;
  int64_t state;  // row of seed and sampling; -1: the request drafts nothing
  int64_t node;   // the row's own, -1: the root
  int64_t first;  // its first child
  int64_t count;
  bool exists;  // it is the root's row, or that of a node with a token, and has children
};

__device__ inline ExpandRow expand_row(const TreeExpandParams& params, int64_t b, int64_t w) {
  const int64_t node = params.beam[b * params.beam_rows + w], first = params.child_start[w];
  const int64_t asked = params.child_start[w + 1] - first;
  const int64_t count = min(max(asked, int64_t{0}), params.children);
  const bool fits = first > node && first >= 0 && first + count <= params.nodes;
  ExpandRow at = {b,
                  w,
                  params.active[b] ? state_row(params.rows, b) : -1,
                  node,
                  first,
                  fits ? count : 0,
                  node == kRootParent};
  if (node >= 0 && node < params.nodes) at.exists = params.tokens[b * params.nodes + node] >= 0;
  at.exists = at.exists && at.count > 0;
  return at;
}

template <class T>
struct ChildRow {
  const Row<T>& row;
  const RowScratch& own;
  const RowSampling& sampling;  // shared, and the next two
  const Law& law;
  int32_t* taken;  // columns
  int32_t count;

  // Whether a column is not left; a row that is not filtered is drawn from without its cutoff.
  __device__ bool operator()(int32_t column) const {
    bool found = sampling.filtered() && !(logit_at(row, column) >= law.cutoff);
    for (int32_t i = 0; i < count; ++i) found |= taken[i] == column;
    return found;
  }
};

// Which element of this lane a column of its chunk is (column_of), -1: another lane's.
template <class T>
__device__ inline int own_element(int32_t column) {
  constexpr int kInVector = Elements<T>::kInVector, kInGroup = kLaneIds / kChunkGroups;
  const int32_t group = column % kChunk / kGroup, inside = column % kGroup;
  const int32_t vector = inside / kInVector;
  if (vector % 32 != lane_id()) return -1;
  return group * kInGroup + vector / 32 * kInVector + inside % kInVector;
}

// A lane's logits of a chunk, -inf where they are not left.
template <class T>
__device__ inline LaneLogits logits_left(const ChildRow<T>& child, int32_t index) {
  const Place place = place_of_chunk(index);
  LaneChunk<T> chunk = load_chunk(child.row, place);
  if (child.row.mask) apply_mask(child.row, place, chunk);
  LaneLogits lane(chunk);
  const float cutoff = child.sampling.filtered() ? child.law.cutoff : -INFINITY;
#pragma unroll
  for (int e = 0; e < kLaneIds; ++e) {
    if (!(lane.z[e] >= cutoff)) lane.z[e] = -INFINITY;
  }
#pragma unroll 1
  for (int32_t i = 0; i < child.count; ++i) {
    const int own = child.taken[i] / kChunk == index ? own_element<T>(child.taken[i]) : -1;
#pragma unroll
    for (int e = 0; e < kLaneIds; ++e) {
      if (e == own) lane.z[e] = -INFINITY;
    }
  }
  return lane;
}

// The record of what is left of a chunk, by one warp.
template <class T>
__device__ inline void record_left(const ChildRow<T>& child, int32_t chunk) {
  LaneLogits lane = logits_left(child, chunk);
  float largest = -INFINITY;
#pragma unroll
  for (int e = 0; e < kLaneIds; ++e) largest = fmaxf(largest, lane.z[e]);
  Record record = {warp_largest(largest), 0.0f, 0.0f, INFINITY};
  sum_logits<false>(lane, exponent_rate(inverse_temperature(child.sampling.temperature)), record);
  if (lane_id() == 0) child.own.records[chunk] = record;
}

// Records of what a filter keeps.
template <class T>
__device__ inline void record_kept(const ChildRow<T>& child) {
  for (int32_t c = warp_id(); c < num_chunks(child.row.vocab); c += kWarps) {
    record_left(child, c);
  }
  __syncthreads();
}

// Takes a column out of its chunk.
template <class T>
__device__ inline void take_child(ChildRow<T>& child, int32_t column) {
  if (threadIdx.x == 0) child.taken[child.count] = column;
  ++child.count;
  __syncthreads();
  if (warp_id() == 0) record_left(child, column / kChunk);
  __syncthreads();
}

// One of the columns that are left by the inverse CDF, -1: no mass is.
template <class T>
__device__ inline int32_t draw_child(const ChildRow<T>& child, double uniform) {
  SHARED(double, sums, [kWarps]);
  double mass = 0.0;
  for (int32_t c = threadIdx.x; c < num_chunks(child.row.vocab); c += kThreads) {
    mass += chunk_mass(child.sampling, child.own, child.law, c);
  }
  const double target = uniform * block_sum(mass, sums);
  return draw_from_chunks(child.row, child.sampling, child.own, child.law, target, child);
}

// The most probable column that is left, the lowest of a tie, -1: none is.
template <class T>
__device__ inline int32_t best_child(const ChildRow<T>& child) {
  SHARED(int32_t, best, [1]);
  if (warp_id() == 0) {
    uint32_t top = 0, home = 0x7FFFFFFF;
    for (int32_t c = lane_id(); c < num_chunks(child.row.vocab); c += 32) {
      const uint32_t key = order_key(load_fresh(&child.own.records[c].max));
      if (key > top) home = c;
      top = max(top, key);
    }
    const uint32_t limit = warp_max(top);
    home = warp_min(top == limit ? home : 0x7FFFFFFF);
    const float most = key_value(limit);
    const bool some = most > -INFINITY && most >= child.law.cutoff;
    const int32_t chunk = some ? static_cast<int32_t>(home) : 0;
    const LaneLogits lane = logits_left(child, chunk);
    const Place place = place_of_chunk(chunk);
    uint32_t first = kNoId;
#pragma unroll
    for (int e = 0; e < kLaneIds; ++e) {
      const uint32_t column = column_of<T>(place, e);
      if (lane.z[e] == most) first = min(first, column);
    }
    first = warp_min(first);
    if (lane_id() == 0) best[0] = some ? static_cast<int32_t>(first) : -1;
  }
  __syncthreads();
  return best[0];
}

// The next child's column, -1: there is none.
template <class T>
__device__ inline int32_t choose_child(const TreeExpandParams& params, const ExpandRow& at,
                                       const ChildRow<T>& child) {
  if (child.sampling.argmax) return child.count == 0 ? child.law.argmax : -1;
  if (!params.drawn) return best_child(child);
  return draw_child(child, uniform_at(params.seed[at.state], 0, at.first + child.count,
                                      params.round[at.b], Domain::kDraft));
}

}  // namespace tapout::cuda
