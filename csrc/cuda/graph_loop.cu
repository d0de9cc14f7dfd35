// The kernels between the captured parts of a round that is one CUDA graph
// (csrc/host/graph_loop.h), one thread each. They set the values of conditional nodes.
//
// cudaGraphSetConditional is declared by cuda_device_runtime_api.h, which nvcc includes by itself,
// and defined by the driver: like vprintf it stays undefined in the cubin and is resolved when the
// module is loaded. So there is no device link, no -rdc and no libcudadevrt.
#include "../core/graph_loop.h"
#include "device.h"

namespace tapout::cuda {

static __global__ void begin_loop_kernel(const int32_t* num_active, int32_t* steps, int32_t slots,
                                         uint64_t loop) {
  if (threadIdx.x > 0) return;
  *steps = 0;
  cudaGraphSetConditional(loop, drafts_on(*num_active, 0, slots));
}

static __global__ void continue_loop_kernel(const int32_t* num_active, int32_t* steps,
                                            int32_t slots, uint64_t loop) {
  if (threadIdx.x > 0) return;
  const int32_t taken = *steps + 1;
  *steps = taken;
  cudaGraphSetConditional(loop, drafts_on(*num_active, taken, slots));
}

// One thread, one after the other: concurrent calls of cudaGraphSetConditional are not defined.
static __global__ void choose_width_kernel(const int32_t* steps, const VerifyWidths widths) {
  if (threadIdx.x > 0) return;
  const int32_t chosen = verify_choice(widths, *steps);
  for (int32_t i = 0; i < widths.count; ++i) cudaGraphSetConditional(widths.handle[i], i == chosen);
}

static cudaError_t graph_kernels(int device, cudaFunction_t* functions) {
  cudaError_t error = cudaSetDevice(device);  // and its context is current, if none was
  if (error == cudaSuccess) error = function_of(begin_loop_kernel, functions);
  if (error == cudaSuccess) error = function_of(continue_loop_kernel, functions + 1);
  if (error == cudaSuccess) error = function_of(choose_width_kernel, functions + 2);
  return error;
}

}  // namespace tapout::cuda

// Leaves the three kernels as functions of the driver (CUfunction) on this device, in the order
// begin, continue, choose. What went wrong, or null.
extern "C" __attribute__((visibility("default"))) const char* tapout_graph_kernels(
    int device, cudaFunction_t* functions) {
  const cudaError_t error = tapout::cuda::graph_kernels(device, functions);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
