// The host's twin of what launchers and bindings take from CUDA's runtime. Launches run at once and
// to their end, so every stream is the same and nothing is ever pending.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};

using cudaStream_t = struct EmulatedStream*;

// A kernel with its type left out, as a node of a graph has it: parameters are known by their
// sizes.
struct EmulatedFunction {
  void (*kernel)();
  const size_t* sizes;
  size_t parameters;
  cudaError_t (*run)(const EmulatedFunction& function, unsigned blocks, unsigned threads,
                     size_t shared_bytes, void** arguments);
};
using cudaFunction_t = const EmulatedFunction*;

enum cudaDeviceAttr : int { cudaDevAttrMultiProcessorCount = 16 };
enum cudaStreamCaptureStatus : int {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2
};

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))
// What went wrong in the last launch, "" if nothing did.
EMULATOR_EXPORT const char* emulator_error();
// Order of blocks and lanes, and how many blocks run at a time.
EMULATOR_EXPORT void emulator_configure(uint64_t seed, int blocks_in_flight);
// What the device is taken for, and the byte that scratch memory is filled with before an
// operator's launches: what an earlier one has left is no result of the next.
EMULATOR_EXPORT void emulator_pretend(int multiprocessors, int capturing, int garbage);
// Launches since the last call of emulator_reset_launches(), and switches of the last launch.
EMULATOR_EXPORT int64_t emulator_launches();
EMULATOR_EXPORT void emulator_reset_launches();
EMULATOR_EXPORT int64_t emulator_switches();
// What cudaGraphSetConditional() does, if a graph is to run here.
EMULATOR_EXPORT void emulator_on_conditional(void (*set)(uint64_t handle, unsigned value));

void emulator_forget(char* bytes, int64_t count);
// After an operator's launches every ticket is 0 again.
cudaError_t emulator_check_tickets(const uint32_t* tickets, int64_t count);

inline const char* cudaGetErrorString(cudaError_t) { return emulator_error(); }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

inline cudaError_t cudaMemsetAsync(void* bytes, int value, size_t count, cudaStream_t) {
  memset(bytes, value, count);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
void cudaGraphSetConditional(uint64_t handle, unsigned value);
