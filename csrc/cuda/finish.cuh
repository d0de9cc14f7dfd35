// Who finishes what several blocks began.
#pragma once

#include "device.h"

namespace tapout::cuda {

// Whether this block is the last of `arrivals`: the same answer in all of its threads. The last one
// sees what the others stored, if it reads it with load_fresh. The ticket is 0 again afterwards.
__device__ inline bool arrives_last(uint32_t* ticket, uint32_t arrivals) {
  SHARED(uint32_t, last, [1]);
  __syncthreads();  // stores of every thread come before the one thread's fence
  if (arrivals == 1) return true;
  if (threadIdx.x == 0) last[0] = ticket_arrive(ticket, arrivals) == arrivals - 1;
  __syncthreads();
  return last[0] != 0;
}

}  // namespace tapout::cuda
