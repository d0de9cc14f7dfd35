// The largest logit that enough logits, or enough mass, reach: a histogram of order keys
// (core/sampling.h), and another one of the bin that it ends in. Counts and masses are integers
// (mass in units of 2^-40), so no order changes them.
#pragma once

#include "block.cuh"
#include "row.cuh"

namespace tapout::cuda {

constexpr float kMassUnit = 0x1p40f;

__device__ inline uint64_t mass_units(float weight) {
  return static_cast<uint64_t>(weight * kMassUnit);
}

// Where a cutoff is: keys of `range`, of measure `inside`; `above` is that of every key above it.
struct Window {
  KeyRange range;
  uint64_t above;
  uint64_t inside;
};

// Two additions of 32 bits: shared memory has no faster one of 64.
__device__ inline void add_to_bin(uint64_t* bin, uint64_t amount) {
  uint32_t* const word = reinterpret_cast<uint32_t*>(bin);
  const uint32_t low = static_cast<uint32_t>(amount), before = shared_add(word, low);
  const uint32_t high = static_cast<uint32_t>(amount >> 32) + (before + low < low);
  if (high != 0) shared_add(word + 1, high);
}

struct alignas(16) Found {
  uint64_t above;
  uint64_t inside;
  int32_t bin;
};

// The bin that reaches the goal from above, or the lowest with any measure if none does.
__device__ inline Found reaching_bin(const uint64_t (&bins)[kBins], uint64_t above, uint64_t goal) {
  SHARED(uint64_t, sums, [kWarps]);
  SHARED(Found, found, [1]);
  constexpr int kShare = kBins / kThreads;
  const int last = static_cast<int>(kBins) - 1 - static_cast<int>(threadIdx.x) * kShare;
  uint64_t own = 0;
#pragma unroll 8
  for (int i = 0; i < kShare; ++i) own += bins[last - i];
  const Running<uint64_t> running = block_running(own, sums);
  goal = min(goal, above + running.total);
  if (above + running.before < goal && above + running.after >= goal) {
    uint64_t reached = above + running.before;
    int bin = last;
    while (reached + bins[bin] < goal) reached += bins[bin--];
    found[0] = {reached, bins[bin], bin};
  }
  __syncthreads();
  return found[0];
}

// One histogram of a window. each(visit) visits logits, amount(logit) is what one counts.
template <class Each, class Amount>
__device__ inline Window narrowed(const Window& window, int shift, uint64_t goal,
                                  uint64_t (&bins)[kBins], const Each& each, const Amount& amount) {
#pragma unroll 8
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  const KeyRange range = window.range;
  each([&](float logit, int32_t) {
    const uint32_t key = order_key(logit + 0.0f);  // -0 becomes +0
    if (key < range.low || key > range.high) return;
    add_to_bin(bins + ((key - range.low) >> shift), amount(logit));
  });
  __syncthreads();
  const Found found = reaching_bin(bins, window.above, goal);
  return {bin_range(range, shift, found.bin), found.above, found.inside};
}

// The largest logit t with measure{z >= t} >= goal > 0, or the smallest that has any measure.
template <class Each, class Amount>
__device__ inline float largest_reaching(KeyRange range, int precision, uint64_t goal,
                                         uint64_t (&bins)[kBins], const Each& each,
                                         const Amount& amount) {
  Window window = {range, 0, 0};
  int shift;
  do {
    shift = bin_shift(window.range, precision);
    window = narrowed(window, shift, goal, bins, each, amount);
  } while (shift > precision);
  return bin_value(window.range);
}

}  // namespace tapout::cuda
