// The listed groups of a filtered row, and the logits in them that may be kept.
#pragma once

#include "block.cuh"
#include "row.cuh"
#include "scratch.h"

namespace tapout::cuda {

// visit(batch, place, chunk) for four listed groups at a time, by each warp.
template <class T, class Visit>
__device__ inline void for_listed(const Row<T>& row, const int32_t* listed, int32_t count,
                                  const Visit& visit) {
  const int32_t batches = ceil_divide(count, kChunkGroups);
  for (int32_t batch = warp_id(); batch < batches; batch += kWarps) {
    const Place place = place_of_listed(row, listed, count, batch);
    LaneChunk<T> chunk = load_chunk(row, place);
    if (row.mask) apply_mask(row, place, chunk);
    visit(batch, place, chunk);
  }
}

// Logits that may be kept, with the place of their group in the list: in shared memory, or where
// they do not fit read again each time.
template <class T>
struct Candidates {
  const Row<T>& row;
  const RowScratch& scratch;
  int32_t listed;
  float bound;
  int32_t count;
  float* logit;  // [kNearby], and the next
  int32_t* home;

  __device__ bool nearby() const { return count <= kNearby; }

  // visit(logit) for this lane's part of a listed group.
  template <class Visit>
  __device__ void each_of(int32_t group, const Visit& visit) const {
    constexpr int kInVector = Elements<T>::kInVector;
    const int32_t first = scratch.listed[group] * kGroup;
#pragma unroll
    for (int i = 0; i < kGroup / 32; i += kInVector) {
      const int32_t column = first + i * 32 + lane_id() * kInVector;
      Vec16Bytes vector = load_vector(row, column);
      if (row.mask) apply_mask(row, column, vector);
#pragma unroll
      for (int k = 0; k < kInVector; ++k) {
        const float z = element<T>(vector, k);
        if (z >= bound) visit(z);
      }
    }
  }

  // visit(logit, home); no collective in it.
  template <class Visit>
  __device__ void each(const Visit& visit) const {
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < count && nearby(); i += kThreads) visit(logit[i], home[i]);
#pragma unroll 1
    for (int32_t group = warp_id(); group < listed && !nearby(); group += kWarps) {
      each_of(group, [&](float z) { visit(z, group); });
    }
  }
};

// Copies the candidates into shared memory as far as they fit; sets their number. `taken` is 0.
template <class T>
__device__ inline void gather(Candidates<T>& candidates, uint32_t (&taken)[1]) {
  for_listed(candidates.row, candidates.scratch.listed, candidates.listed,
             [&](int32_t batch, const Place&, const LaneChunk<T>& chunk) {
               constexpr int kInGroup = kLaneIds / kChunkGroups;
               uint32_t own = 0;
#pragma unroll
               for (int e = 0; e < kLaneIds; ++e) own += chunk.logit(e) >= candidates.bound;
               if (own == 0) return;
               uint32_t at = shared_add(taken, own);
#pragma unroll
               for (int e = 0; e < kLaneIds; ++e) {
                 const float z = chunk.logit(e);
                 if (!(z >= candidates.bound) || at >= kNearby) continue;
                 candidates.logit[at] = z;
                 candidates.home[at++] = batch * kChunkGroups + e / kInGroup;
               }
             });
  __syncthreads();
  candidates.count = static_cast<int32_t>(taken[0]);
}

}  // namespace tapout::cuda
