// Kernels for the tests of the emulator: one that is right, and one for each mistake it must see.
// Lines marked `reported` are those that its message must name.
#include "../../csrc/cuda/device.h"

#define PROBE EMULATOR_EXPORT

namespace tapout::cuda {
namespace {

struct Sum {
  const float* values;  // [blocks, threads, 4]
  float* partial;       // [blocks]
  uint32_t* ticket;
  float* total;
};

template <class T>
T block_sum(T value) {
  SHARED(T, sums, [32]);
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  if (lane_id() == 0) sums[warp_id()] = value;
  __syncthreads();
  value = T(0);
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) value += sums[warp];
  __syncthreads();
  return value;
}

float block_total(const Sum& sum) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  const Vec16Bytes four = load_streamed(sum.values + 4 * thread);
  float value = 0;
  for (const uint32_t word : four.word) value += __uint_as_float(word);
  return block_sum(value);
}

// Right: each block's sum, and by the last block that of them all, times a histogram's size.
__global__ void right(Sum sum) {
  SHARED(bool, last);
  SHARED(uint32_t, counted);
  SHARED_DYN(float, copy);
  if (threadIdx.x == 0) counted = 0;
  const float value = block_total(sum);
  shared_add(&counted, 1u);
  if (threadIdx.x == 0) {
    sum.partial[blockIdx.x] = value;
    last = ticket_arrive(sum.ticket, gridDim.x) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
    copy[i] = load_fresh(sum.partial + i);
  }
  __syncthreads();
  float total = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) total += copy[i];
  if (threadIdx.x == 0) *sum.total = total * static_cast<float>(counted);
}

// The first thread adds up what the others may not have written yet.
__global__ void missing_barrier(float* out) {
  SHARED(float, values, [64]);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (const float value : values) sum += value;
  out[blockIdx.x] = sum;
}

// Without a ticket, the last block of the grid need not be the last to write.
__global__ void missing_ticket(float* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = 1.0f;
  __syncthreads();
  if (blockIdx.x != gridDim.x - 1 || threadIdx.x != 0) return;
  for (unsigned i = 0; i + 1 < gridDim.x; ++i) out[blockIdx.x] += load_fresh(out + i);
}

// Block 0 tells the other that its data is there: by a flag that orders it, or by one that does
// not.
template <bool kOrdered>
__global__ void handed_over(float* data, int32_t* flag, float* out) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    *data = 3.0f;
    kOrdered ? store_release(flag, 1) : store_max(flag, 1);
    return;
  }
  while ((kOrdered ? load_acquire(flag) : load_relaxed(flag)) == 0) {
  }
  *out = *data;
}

// Lanes exchange values through shared memory, of which a shuffle orders no access.
template <bool kOrdered>
__global__ void exchanged(float* out) {
  SHARED(float, values, [32]);
  values[lane_id()] = static_cast<float>(lane_id());
  const float same = shuffle_xor(0.0f, 1);
  if (kOrdered) __syncwarp();
  out[lane_id()] = values[31 - lane_id()] + same;
}

__global__ void divergent_barrier() {
  if (threadIdx.x < 32) {
    __syncthreads();  // reported by divergent_barrier
  } else {
    __syncthreads();  // reported by divergent_barrier
  }
}

__global__ void divergent_collective(uint32_t* out) {
  uint32_t value = threadIdx.x;
  if (lane_id() % 2) {
    value = warp_max(value);  // reported by divergent_collective
  } else {
    value = warp_min(value);  // reported by divergent_collective
  }
  out[threadIdx.x] = value;
}

__global__ void partial_collective(uint32_t* out) {
  if (lane_id() == 5) return;
  out[threadIdx.x] = warp_ballot(true);  // reported by partial_collective
}

__global__ void barrier_in_warp(uint32_t* out) {
  if (lane_id() == 5) __syncthreads();
  out[threadIdx.x] = warp_or(1u);  // reported by barrier_in_warp
}

__global__ void early_return(uint32_t* out) {
  if (threadIdx.x == 40) return;
  __syncthreads();  // reported by early_return
  out[threadIdx.x] = 1;
}

__global__ void out_of_bounds(int32_t beyond) {
  SHARED(int32_t, values, [32]);  // reported by out_of_bounds
  values[static_cast<int32_t>(threadIdx.x) % 32 + beyond] = 0;
  __syncthreads();
}

__global__ void misaligned(const float* values, float* out) {
  const Vec16Bytes four = load_cached(values + threadIdx.x);  // reported by misaligned
  out[threadIdx.x] = __uint_as_float(four.word[0]);
}

__global__ void livelock(const int32_t* flag) {
  while (load_acquire(flag) == 0) {  // reported by livelock
  }
}

__global__ void missing_wait(float* out) {
  if (threadIdx.x % 32 != 9) wait_for_previous_kernel();
  out[threadIdx.x] = 0.0f;
}

__global__ void too_much_shared(float* out) {
  SHARED(float, half, [6 << 10]);
  SHARED(float, more, [7 << 10]);  // reported by too_much_shared
  half[threadIdx.x] = more[threadIdx.x] = 0.0f;
  out[threadIdx.x] = half[threadIdx.x];
}

}  // namespace

PROBE int probe_right(Sum sum, int blocks, int threads) {
  return launch(right, blocks, threads, {nullptr, blocks * sizeof(float), false}, sum);
}
PROBE int probe_missing_barrier(float* out) { return launch(missing_barrier, 4, 64, {}, out); }
PROBE int probe_missing_ticket(float* out) { return launch(missing_ticket, 9, 32, {}, out); }
PROBE int probe_handed_over(bool ordered, float* data, int32_t* flag, float* out) {
  return launch(ordered ? handed_over<true> : handed_over<false>, 2, 32, {}, data, flag, out);
}
PROBE int probe_exchanged(bool ordered, float* out) {
  return launch(ordered ? exchanged<true> : exchanged<false>, 1, 32, {}, out);
}
PROBE int probe_divergent_barrier() { return launch(divergent_barrier, 2, 64, {}); }
PROBE int probe_divergent_collective(uint32_t* out) {
  return launch(divergent_collective, 1, 64, {}, out);
}
PROBE int probe_partial_collective(uint32_t* out) {
  return launch(partial_collective, 1, 64, {}, out);
}
PROBE int probe_barrier_in_warp(uint32_t* out) { return launch(barrier_in_warp, 1, 64, {}, out); }
PROBE int probe_early_return(uint32_t* out) { return launch(early_return, 1, 64, {}, out); }
PROBE int probe_out_of_bounds(int beyond) { return launch(out_of_bounds, 2, 64, {}, beyond); }
PROBE int probe_misaligned(const float* values, float* out) {
  return launch(misaligned, 1, 32, {}, values, out);
}
PROBE int probe_livelock(const int32_t* flag) { return launch(livelock, 1, 32, {}, flag); }
PROBE int probe_missing_wait(float* out) {
  return launch(missing_wait, 1, 64, {nullptr, 0, true}, out);
}
PROBE int probe_too_much_shared(float* out) { return launch(too_much_shared, 1, 32, {}, out); }

}  // namespace tapout::cuda
