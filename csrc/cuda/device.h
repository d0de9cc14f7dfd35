// Everything that only the chip has, once. Under -DTAPOUT_EMULATED tests/emulation/emulator.h has
// the host's twin of each name, so kernels are compiled and run there unchanged.
//
//   SHARED(T, name, [dims])   static shared memory; SHARED_DYN(T, name): a pointer to the dynamic,
//                             16 bytes aligned. Neither is initialised.
//   warp_*, shuffle_*         of a full warp: every lane calls, at one source line. They order no
//                             memory; __syncwarp() does.
// Pointers other than those of shared_add are to global memory.
#pragma once

#include "runtime.h"

#if defined(TAPOUT_EMULATED)
#include "emulator.h"
#else

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#define SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define SHARED_DYN(T, name)                                       \
  extern __shared__ __align__(16) unsigned char tapout_dynamic[]; \
  T* const name = reinterpret_cast<T*>(tapout_dynamic)

namespace tapout::cuda {

struct LaunchOptions {
  cudaStream_t stream = nullptr;
  size_t shared_bytes = 0;
  bool overlaps_previous = false;  // may start before the launch before it has ended (sm_90)
};

// Whether this device runs code that waits in wait_for_previous_kernel(): compiled for sm_90 on.
inline bool can_overlap() {
  constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};  // 10 x the number of the sm_
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
    return false;
  }
  for (const int architecture : kArchitectures) {
    if (architecture >= 900 && architecture / 100 <= major) return true;
  }
  return false;
}

// One kernel on a line of blocks; each argument is converted to the kernel's parameter.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, LaunchOptions options,
                   A&&... args) {
  constexpr size_t kSharedUnasked = 48 << 10;
  if (options.shared_bytes > kSharedUnasked) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(options.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = options.shared_bytes;
  config.stream = options.stream;
  config.attrs = &overlap;
  config.numAttrs = options.overlaps_previous && can_overlap() ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
  if (error != cudaSuccess) cudaGetLastError();  // it is reported here, not to whoever asks next
  return error;
}

// The kernel as the driver knows it (CUfunction), on the current device.
template <class... P>
cudaError_t function_of(void (*kernel)(P...), cudaFunction_t* function) {
  return cudaGetFuncBySymbol(function, reinterpret_cast<const void*>(kernel));
}

// Before the first access to what the launch before this one reads or writes; by every thread.
__device__ inline void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next launch may start, up to its wait_for_previous_kernel(), once every block has said so.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct alignas(16) Vec16Bytes {
  uint32_t word[4];
};

// 16 aligned bytes that are read once, of memory that no kernel writes meanwhile: not even the one
// that wait_for_previous_kernel() waits for.
__device__ inline Vec16Bytes load_streamed(const void* p) {
  Vec16Bytes v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(p));
  return v;
}

// 16 aligned bytes that will be read again; not those another block of this launch writes.
__device__ inline Vec16Bytes load_cached(const void* p) {
  return *static_cast<const Vec16Bytes*>(p);
}

// 16 aligned bytes that this block will not read again.
__device__ inline void store_streamed(void* p, Vec16Bytes v) {
  asm volatile("st.global.L1::no_allocate.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.word[0]),
               "r"(v.word[1]), "r"(v.word[2]), "r"(v.word[3])
               : "memory");
}

// Lets the line of 128 bytes that holds this one come to the L2.
__device__ inline void prefetch_to_l2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// What another block of this launch has written: after the ticket that says so.
template <class T>
__device__ T load_fresh(const T* p) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T value;
  if constexpr (sizeof(T) == 4) {
    uint32_t w;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(w) : "l"(p) : "memory");
    memcpy(&value, &w, sizeof w);
  } else if constexpr (sizeof(T) == 8) {
    uint64_t w;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(w) : "l"(p) : "memory");
    memcpy(&value, &w, sizeof w);
  } else {
    Vec16Bytes w;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                 : "l"(p)
                 : "memory");
    memcpy(&value, &w, sizeof w);
  }
  return value;
}

// A flag that other blocks change; says nothing about other memory.
__device__ inline int32_t load_relaxed(const int32_t* p) {
  int32_t value;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

// What was written before store_release() stored the value that this reads, can be read after it.
__device__ inline int32_t load_acquire(const int32_t* p) {
  int32_t value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

__device__ inline void store_release(int32_t* p, int32_t value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

// *p = max(*p, value), relaxed.
__device__ inline void store_max(int32_t* p, int32_t value) { atomicMax(p, value); }

// How many of `arrivals` have been here before; the last one sets the ticket back to 0. What each
// wrote before, threads of its block included that it met at a barrier, the later ones can read.
__device__ inline uint32_t ticket_arrive(uint32_t* ticket, uint32_t arrivals) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(ticket), "r"(arrivals - 1)
               : "memory");
  return before;
}

// 2^x and log2(x) to about 2^-22, subnormal numbers count as 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// IEEE binary16 in the low bits.
__device__ inline float half_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// The larger of each half of two words, and the smaller; the other one where one is NaN.
#define TAPOUT_PAIRS(name, instruction)                                     \
  __device__ inline uint32_t name(uint32_t left, uint32_t right) {          \
    uint32_t result;                                                        \
    asm(instruction " %0, %1, %2;" : "=r"(result) : "r"(left), "r"(right)); \
    return result;                                                          \
  }
TAPOUT_PAIRS(max_bf16_pairs, "max.bf16x2")
TAPOUT_PAIRS(min_bf16_pairs, "min.bf16x2")
TAPOUT_PAIRS(max_half_pairs, "max.f16x2")
TAPOUT_PAIRS(min_half_pairs, "min.f16x2")
#undef TAPOUT_PAIRS

// The value, in a way that what was computed from it before is computed again, not kept meanwhile.
__device__ inline uint32_t forgotten(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

constexpr unsigned kFullWarp = 0xFFFFFFFFu;

__device__ inline uint32_t warp_max(uint32_t value) { return __reduce_max_sync(kFullWarp, value); }
__device__ inline uint32_t warp_min(uint32_t value) { return __reduce_min_sync(kFullWarp, value); }
__device__ inline uint32_t warp_or(uint32_t value) { return __reduce_or_sync(kFullWarp, value); }
__device__ inline uint32_t warp_ballot(bool value) { return __ballot_sync(kFullWarp, value); }

// T: float, double, int32_t, uint32_t, int64_t, uint64_t.
template <class T>
__device__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kFullWarp, value, mask);
}

// Lanes below `delta` get their own value.
template <class T>
__device__ T shuffle_up(T value, int delta) {
  return __shfl_up_sync(kFullWarp, value, delta);
}

template <class T>
__device__ T shuffle_from(T value, int lane) {
  return __shfl_sync(kFullWarp, value, lane);
}

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x & 31); }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x >> 5); }

// Of shared memory; the value before.
__device__ inline uint32_t shared_add(uint32_t* p, uint32_t value) { return atomicAdd(p, value); }

__device__ inline uint64_t shared_add(uint64_t* p, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), value);
}

}  // namespace tapout::cuda

#endif
