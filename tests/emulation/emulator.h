// The host's twin of csrc/cuda/device.h: what kernels see of the emulator. Every CUDA thread is a
// fiber; a collective hands over to the next lane until the whole warp, or block, is there.
#pragma once

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <map>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulated_runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

// Where a call stands: two default arguments, so that the caller's line is meant.
#define EMULATED_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emulator {

struct Index {
  unsigned x;
};

enum class Meeting { kMax, kMin, kOr, kBallot, kXor, kUp, kFrom, kSyncWarp };

// One shared variable: where it lies in every block of launch number `launch`.
struct SharedVariable {
  const char* name;
  const char* file;
  int line;
  uint64_t launch;
  size_t offset;
  size_t bytes;
};

void* shared_variable(SharedVariable& variable, size_t bytes, size_t alignment);
void* shared_dynamic();
uint64_t meet_warp(Meeting kind, uint64_t value, uint32_t argument, const char* file, int line);
void meet_block(const char* file, int line);
void wait_for_previous();
// Once in `odds` calls another thread runs first.
void preempt(unsigned odds);
// The same where a thread may be waiting for another one, which cannot go on for ever.
void poll(const char* file, int line);
void check_aligned(const void* p, size_t alignment, const char* file, int line);

struct Launch {
  unsigned blocks;
  unsigned threads;
  size_t shared_bytes;
  bool overlaps_previous;
  void (*thread)(const void* arguments);
  const void* arguments;
};

cudaError_t run(const Launch& launch);

}  // namespace emulator

// Of the running thread; the runtime rewrites them at every switch.
extern emulator::Index threadIdx, blockIdx, blockDim, gridDim;

#define SHARED(T, name, ...)                                                             \
  static ::emulator::SharedVariable emulated_##name{#name, __FILE__, __LINE__, 0, 0, 0}; \
  auto& name = *static_cast<std::remove_reference_t<T(&) __VA_ARGS__>*>(                 \
      ::emulator::shared_variable(emulated_##name, sizeof(T __VA_ARGS__), alignof(T)))
#define SHARED_DYN(T, name) T* const name = static_cast<T*>(::emulator::shared_dynamic())

inline void __syncthreads(EMULATED_SITE) { emulator::meet_block(file, line); }
inline void __syncwarp(EMULATED_SITE) {
  emulator::meet_warp(emulator::Meeting::kSyncWarp, 0, 0, file, line);
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
inline int __clzll(long long value) {
  return value ? __builtin_clzll(static_cast<unsigned long long>(value)) : 64;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}

template <class To, class From>
To emulated_bits(From value) {
  static_assert(sizeof(To) >= sizeof(From));
  To bits = {};
  memcpy(&bits, &value, sizeof value);
  return bits;
}

inline unsigned __float_as_uint(float value) { return emulated_bits<unsigned>(value); }
inline int __float_as_int(float value) { return emulated_bits<int>(value); }
inline float __uint_as_float(unsigned value) { return emulated_bits<float>(value); }
inline float __int_as_float(int value) { return emulated_bits<float>(value); }
inline long long __double_as_longlong(double value) { return emulated_bits<long long>(value); }
inline double __longlong_as_double(long long value) { return emulated_bits<double>(value); }

// As CUDA's, but for two types at once: there the call is ambiguous.
#define EMULATED_MIN_MAX(T)                        \
  inline T min(T a, T b) { return a < b ? a : b; } \
  inline T max(T a, T b) { return a < b ? b : a; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

#include "emulated_device.h"
