// What the kernels of a bandit share: a block for each group, and slot at token level; who of the
// batch takes part in it. Tables stay in global memory: a block's cells are touched by it alone.
#pragma once

#include "../core/rows.h"
#include "../core/weights.h"
#include "device.h"
#include "sizes.h"

namespace tapout::cuda {

struct BanditCell {
  int64_t group;
  int64_t slot;
};

__device__ inline BanditCell cell_of_block(int64_t table_slots) {
  return {blockIdx.x / table_slots, blockIdx.x % table_slots};
}

inline unsigned bandit_blocks(int64_t groups, int64_t table_slots) {
  const int64_t cells = groups * table_slots;
  return static_cast<unsigned>(cells > 0 ? cells : 1);  // one counts the call of no table at all
}

// The group of batch row b, or -1 where it takes no part, past the end too.
template <class Params>
__device__ int64_t group_of(const Params& params, int64_t groups, int64_t b) {
  if (b >= params.batch || state_row(params.rows, b) < 0) return -1;
  return bandit_group(params.group, params.live, groups, b);
}

// Where a thread stands among those of its block that say `mine`, and how many they are.
struct Place {
  int32_t before;
  int32_t count;
};

__device__ inline Place place_of(bool mine) {
  SHARED(int32_t, counts, [kWarps]);
  const uint32_t ballot = warp_ballot(mine);
  __syncthreads();  // the counts of the call before have been read
  if (lane_id() == 0) counts[warp_id()] = __popc(ballot);
  __syncthreads();
  Place place = {__popc(ballot & ((1u << lane_id()) - 1)), 0};
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp < warp_id()) place.before += counts[warp];
    place.count += counts[warp];
  }
  return place;
}

// Rows of the groups before this one, and of this one.
struct Members {
  int64_t before;
  int32_t count;
};

template <class Params>
__device__ Members count_members(const Params& params, int64_t groups, int64_t group) {
  SHARED(uint32_t, total, [2]);
  if (threadIdx.x < 2) total[threadIdx.x] = 0;
  __syncthreads();
  for (int64_t begin = 0; begin < params.batch; begin += kThreads) {
    const int64_t own = group_of(params, groups, begin + threadIdx.x);
    const uint32_t before = warp_ballot(own >= 0 && own < group);
    const uint32_t mine = warp_ballot(own == group);
    if (lane_id() == 0) {
      shared_add(&total[0], static_cast<uint32_t>(__popc(before)));
      shared_add(&total[1], static_cast<uint32_t>(__popc(mine)));
    }
  }
  __syncthreads();
  return {total[0], static_cast<int32_t>(total[1])};
}

}  // namespace tapout::cuda
