// What bindings ask CUDA's runtime for, and what is looked at around an operator's launches.
#include "state.h"

static struct {
  int multiprocessors = 2;  // rows are split, but not into many blocks
  bool capturing = false;
  int garbage = 0xFF;
} device;

void emulator_pretend(int multiprocessors, int capturing, int garbage) {
  device = {multiprocessors, capturing != 0, garbage};
}

static void (*set_conditional)(uint64_t, unsigned) = nullptr;

void emulator_on_conditional(void (*set)(uint64_t, unsigned)) { set_conditional = set; }

void cudaGraphSetConditional(uint64_t handle, unsigned value) { set_conditional(handle, value); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = device.multiprocessors;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = device.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

void emulator_forget(char* bytes, int64_t count) {
  memset(bytes, device.garbage, static_cast<size_t>(count));
}

cudaError_t emulator_check_tickets(const uint32_t* tickets, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (tickets[i] == 0) continue;
    emulator::fail("ticket " + std::to_string(i) + " is " + std::to_string(tickets[i]) +
                   " after the last launch, not 0");
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}
