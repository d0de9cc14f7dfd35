// The names of csrc/cuda/device.h on the host; included at the end of emulator.h.
#pragma once

namespace tapout::cuda {

struct LaunchOptions {
  cudaStream_t stream = nullptr;
  size_t shared_bytes = 0;
  bool overlaps_previous = false;
};

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, LaunchOptions options,
                   A&&... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  };
  const Call call{kernel, std::tuple<P...>(static_cast<P>(std::forward<A>(args))...)};
  const auto thread = [](const void* untyped) {
    const Call& made = *static_cast<const Call*>(untyped);
    std::apply(made.kernel, made.arguments);
  };
  return emulator::run(
      {blocks, threads, options.shared_bytes, options.overlaps_previous, thread, &call});
}

template <class... P, size_t... I>
cudaError_t launch_untyped(const EmulatedFunction& function, unsigned blocks, unsigned threads,
                           size_t shared_bytes, void** arguments, std::index_sequence<I...>) {
  const auto kernel = reinterpret_cast<void (*)(P...)>(function.kernel);
  return launch(kernel, blocks, threads, LaunchOptions{nullptr, shared_bytes},
                *static_cast<P*>(arguments[I])...);
}

template <class... P>
cudaError_t function_of(void (*kernel)(P...), cudaFunction_t* function) {
  static constexpr size_t kSizes[] = {sizeof(P)...};
  static std::map<void (*)(P...), EmulatedFunction> functions;
  const auto run = [](const EmulatedFunction& untyped, unsigned blocks, unsigned threads,
                      size_t shared_bytes, void** arguments) {
    return launch_untyped<P...>(untyped, blocks, threads, shared_bytes, arguments,
                                std::index_sequence_for<P...>());
  };
  const EmulatedFunction made = {reinterpret_cast<void (*)()>(kernel), kSizes, sizeof...(P), run};
  *function = &functions.emplace(kernel, made).first->second;
  return cudaSuccess;
}

inline void wait_for_previous_kernel() { emulator::wait_for_previous(); }
inline void let_next_kernel_start() {}

struct alignas(16) Vec16Bytes {
  uint32_t word[4];
};

inline Vec16Bytes load_streamed(const void* p, EMULATED_SITE) {
  emulator::check_aligned(p, 16, file, line);
  return *static_cast<const Vec16Bytes*>(p);
}

inline Vec16Bytes load_cached(const void* p, EMULATED_SITE) {
  emulator::check_aligned(p, 16, file, line);
  return *static_cast<const Vec16Bytes*>(p);
}

inline void store_streamed(void* p, Vec16Bytes v, EMULATED_SITE) {
  emulator::check_aligned(p, 16, file, line);
  *static_cast<Vec16Bytes*>(p) = v;
}

inline void prefetch_to_l2(const void*) {}

template <class T>
T load_fresh(const T* p, EMULATED_SITE) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  emulator::check_aligned(p, sizeof(T), file, line);
  return *p;
}

inline int32_t load_relaxed(const int32_t* p, EMULATED_SITE) {
  emulator::poll(file, line);
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}

inline int32_t load_acquire(const int32_t* p, EMULATED_SITE) {
  emulator::poll(file, line);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

inline void store_release(int32_t* p, int32_t value) {
  emulator::preempt(2);
  __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

inline void store_max(int32_t* p, int32_t value) {
  emulator::preempt(2);
  int32_t before = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (before < value && !__atomic_compare_exchange_n(p, &before, value, true, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {
  }
}

inline uint32_t ticket_arrive(uint32_t* ticket, uint32_t arrivals) {
  emulator::preempt(2);
  uint32_t before = __atomic_load_n(ticket, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(ticket, &before, before >= arrivals - 1 ? 0 : before + 1,
                                      true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
  }
  emulator::preempt(2);
  return before;
}

inline float half_to_float(uint16_t bits) {
  const uint32_t magnitude = bits & 0x7FFFu, sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t shifted = sign | (magnitude << 13) | (magnitude >= 0x7C00u ? 0x7F800000u : 0u);
  float value;
  memcpy(&value, &shifted, sizeof value);
  return magnitude >= 0x7C00u ? value : value * 0x1p112f;
}

inline float bf16_to_float(uint16_t bits) {
  const uint32_t word = uint32_t{bits} << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

// The half of `left` or `right` that is chosen; the other one where one is NaN.
template <class Convert, class Chooses>
uint32_t choose_pairs(uint32_t left, uint32_t right, Convert convert, Chooses chooses) {
  uint32_t result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const uint16_t a = static_cast<uint16_t>(left >> shift),
                   b = static_cast<uint16_t>(right >> shift);
    const float x = convert(a), y = convert(b);
    const bool first = y != y || chooses(x, y);
    result |= uint32_t{first ? a : b} << shift;
  }
  return result;
}

inline bool chooses_larger(float x, float y) { return x > y; }
inline bool chooses_smaller(float x, float y) { return x < y; }
inline uint32_t max_bf16_pairs(uint32_t left, uint32_t right) {
  return choose_pairs(left, right, bf16_to_float, chooses_larger);
}
inline uint32_t min_bf16_pairs(uint32_t left, uint32_t right) {
  return choose_pairs(left, right, bf16_to_float, chooses_smaller);
}
inline uint32_t max_half_pairs(uint32_t left, uint32_t right) {
  return choose_pairs(left, right, half_to_float, chooses_larger);
}
inline uint32_t min_half_pairs(uint32_t left, uint32_t right) {
  return choose_pairs(left, right, half_to_float, chooses_smaller);
}

inline uint32_t forgotten(uint32_t value) { return value; }

inline float exp2_approx(float x) {
  const float y = exp2f(x);
  return y < FLT_MIN ? 0.0f : y;
}

inline float log2_approx(float x) { return log2f(fabsf(x) < FLT_MIN ? 0.0f : x); }

inline uint32_t warp_max(uint32_t value, EMULATED_SITE) {
  return static_cast<uint32_t>(emulator::meet_warp(emulator::Meeting::kMax, value, 0, file, line));
}

inline uint32_t warp_min(uint32_t value, EMULATED_SITE) {
  return static_cast<uint32_t>(emulator::meet_warp(emulator::Meeting::kMin, value, 0, file, line));
}

inline uint32_t warp_or(uint32_t value, EMULATED_SITE) {
  return static_cast<uint32_t>(emulator::meet_warp(emulator::Meeting::kOr, value, 0, file, line));
}

inline uint32_t warp_ballot(bool value, EMULATED_SITE) {
  return static_cast<uint32_t>(
      emulator::meet_warp(emulator::Meeting::kBallot, value, 0, file, line));
}

template <class T>
T shuffle(emulator::Meeting kind, T value, int argument, const char* file, int line) {
  const uint64_t bits = emulator::meet_warp(kind, emulated_bits<uint64_t>(value),
                                            static_cast<uint32_t>(argument), file, line);
  T result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

template <class T>
T shuffle_xor(T value, int mask, EMULATED_SITE) {
  return shuffle(emulator::Meeting::kXor, value, mask, file, line);
}

template <class T>
T shuffle_up(T value, int delta, EMULATED_SITE) {
  return shuffle(emulator::Meeting::kUp, value, delta, file, line);
}

template <class T>
T shuffle_from(T value, int lane, EMULATED_SITE) {
  return shuffle(emulator::Meeting::kFrom, value, lane, file, line);
}

inline int lane_id() { return static_cast<int>(threadIdx.x & 31); }
inline int warp_id() { return static_cast<int>(threadIdx.x >> 5); }

template <class T>
T shared_add(T* p, T value) {
  static_assert(std::is_same_v<T, uint32_t> || std::is_same_v<T, uint64_t>);
  emulator::preempt(32);
  return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}

}  // namespace tapout::cuda
