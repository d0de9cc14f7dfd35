// What the threads of a block find together; every thread gets the result, the order of sums is
// fixed. Each call meets at one barrier: its shared array may be written again after the next one.
#pragma once

#include "device.h"
#include "sizes.h"

namespace tapout::cuda {

template <class T>
__device__ inline T warp_sum(T value) {
  for (int distance = 16; distance > 0; distance /= 2) value += shuffle_xor(value, distance);
  return value;
}

// Lanes 0..lane.
template <class T>
__device__ inline T warp_inclusive(T value) {
  for (int distance = 1; distance < 32; distance *= 2) {
    const T before = shuffle_up(value, distance);
    if (lane_id() >= distance) value += before;
  }
  return value;
}

template <class T>
__device__ inline T block_sum(T value, T (&shared)[kWarps]) {
  value = warp_sum(value);
  if (lane_id() == 0) shared[warp_id()] = value;
  __syncthreads();
  T total = shared[0];
  for (int warp = 1; warp < kWarps; ++warp) total += shared[warp];
  return total;
}

// Of unsigned keys (core/sampling.h).
__device__ inline uint32_t block_min(uint32_t value, uint32_t (&shared)[kWarps]) {
  value = warp_min(value);
  if (lane_id() == 0) shared[warp_id()] = value;
  __syncthreads();
  uint32_t least = shared[0];
  for (int warp = 1; warp < kWarps; ++warp) least = min(least, shared[warp]);
  return least;
}

// Running sums over the threads of a block.
template <class T>
struct Running {
  T before;  // of the threads before this one
  T after;   // and this one
  T total;
};

template <class T>
__device__ inline Running<T> block_running(T value, T (&shared)[kWarps]) {
  const T inclusive = warp_inclusive(value);
  T exclusive = shuffle_up(inclusive, 1);
  if (lane_id() == 0) exclusive = T(0);
  if (lane_id() == 31) shared[warp_id()] = inclusive;
  __syncthreads();
  T carry = T(0), total = T(0);
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp == warp_id()) carry = total;
    total += shared[warp];
  }
  return {carry + exclusive, carry + inclusive, total};
}

}  // namespace tapout::cuda
