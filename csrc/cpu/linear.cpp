// linear: y = x W^T + bias for few rows, at the speed at which the weights can be read.
// An output is one chain of fma over its inputs (in bf16 1, 0, 3, 2, ..): its bits depend neither
// on the number of rows nor on threads nor on the instruction set.
#include "ops.h"
#include "vec16.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// Rows for which registers hold the sums with a panel beside the weights and x.
#if defined(TAPOUT_USE_AVX512)
constexpr int kMostRows = 12;
#else
constexpr int kMostRows = 6;
#endif
// Rows that take two panels at a time. Weights come fastest from memory if they come in one stream;
// those in bytes belong to heads that are small enough for the caches, where a sum that has to wait
// for itself is what takes the time.
template <class Weight>
constexpr int kMostRowsOfPairs = 0;
template <>
constexpr int kMostRowsOfPairs<int8_t> = 2;
constexpr int64_t kAhead = 3072;  // bytes of a panel that are asked for before they are needed
constexpr int64_t kTaskBytes = 1 << 18;  // of weights that a worker reads in one go

// How many inputs' weights lie side by side, and what inputs are multiplied as. Of two the second
// is taken first, as the processors do that multiply pairs (vdpbf16ps).
template <class Weight>
struct Layout {
  static constexpr int64_t kTogether = inputs_together(false);
  using Input = float;
};
template <>
struct Layout<Bf16> {
  static constexpr int64_t kTogether = inputs_together(true);
#if defined(TAPOUT_USE_AVX512_BF16)
  using Input = Bf16;
#else
  using Input = float;
#endif
};
template <class Weight>
constexpr int64_t kTogether = Layout<Weight>::kTogether;
template <class Weight>
using Input = typename Layout<Weight>::Input;

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

template <class Weight>
constexpr int64_t padded(int64_t inputs) {
  return (inputs + kTogether<Weight> - 1) / kTogether<Weight> * kTogether<Weight>;
}

// One row's sums with a panel, to where they belong.
template <class Scalar>
inline void store_sums(const LinearParams& params, int64_t row, int64_t panel, const float* sums) {
  const int64_t begin = panel * kPanel, left = params.outputs - begin;
  Vec16 y = load16(sums);
  if (params.scale) y = mul16(y, load_part16(params.scale + begin, left));
  if (params.bias) y = add16(y, load_part16(params.bias + begin, left));
  store_part16(static_cast<Scalar*>(params.y) + row * params.outputs + begin, left, y);
}

#if defined(TAPOUT_USE_AVX2)
template <int kWhich, class Weight>
inline __m256 weights8(const Weight* from) {
  if constexpr (kTogether<Weight> == 1) {
    return load8(from);
  } else {
    return kWhich == 0 ? load_first8(from) : load_second8(from);
  }
}
#endif

// The weights of one of the inputs that lie together, for sixteen outputs.
template <int kWhich, class Weight>
inline Vec16 weights16(const Weight* from) {
#if defined(TAPOUT_USE_AVX2)
  return {weights8<kWhich>(from), weights8<kWhich>(from + kTogether<Weight> * kLanes / 2)};
#else
  if constexpr (kTogether<Weight> == 1) {
    return load16(from);
  } else {
    return kWhich == 0 ? load_first16(from) : load_second16(from);
  }
#endif
}

// sums[p][r] += x[r] * the weights of one input with panel p.
template <int kWhich, int kRows, int kPanels, class Weight>
inline void add_products_of(const float* x, int64_t stride, const Weight* weights, int64_t size,
                            Vec16 (&sums)[kPanels][kRows]) {
  Vec16 own[kPanels];
  for (int p = 0; p < kPanels; ++p) own[p] = weights16<kWhich>(weights + p * size);
  for (int r = 0; r < kRows; ++r) {
    const Vec16 number = set16(x[r * stride]);
    for (int p = 0; p < kPanels; ++p) sums[p][r] = fma16(number, own[p], sums[p][r]);
  }
}

// The same for all inputs whose weights lie together, the last of them first.
template <int kRows, int kPanels, class Weight>
inline void add_products(const float* x, int64_t stride, const Weight* weights, int64_t size,
                         Vec16 (&sums)[kPanels][kRows]) {
  if constexpr (kTogether<Weight> == 2) {
    add_products_of<1, kRows, kPanels>(x + 1, stride, weights, size, sums);
  }
  add_products_of<0, kRows, kPanels>(x, stride, weights, size, sums);
}

#if defined(TAPOUT_USE_AVX512_BF16)
template <int kRows, int kPanels>
inline void add_products(const Bf16* x, int64_t stride, const Bf16* weights, int64_t size,
                         Vec16 (&sums)[kPanels][kRows]) {
  Pairs16 own[kPanels];
  for (int p = 0; p < kPanels; ++p) own[p] = load_pairs16(weights + p * size);
  for (int r = 0; r < kRows; ++r) {
    const Pairs16 pair = set_pairs16(x + r * stride);
    for (int p = 0; p < kPanels; ++p) sums[p][r] = fma_pairs16(pair, own[p], sums[p][r]);
  }
}
#endif

template <int kRows, int kPanels, class Scalar, class Weight>
inline void multiply(const LinearParams& params, const Input<Weight>* x, int64_t row,
                     int64_t panel) {
  constexpr int64_t kStep = kTogether<Weight> * kPanel;
  const int64_t inputs = padded<Weight>(params.inputs), size = inputs * kPanel;
  const Weight* weights = static_cast<const Weight*>(params.panels) + panel * size;
  x += row * inputs;
  Vec16 sums[kPanels][kRows];
  for (int p = 0; p < kPanels; ++p) {
    for (int r = 0; r < kRows; ++r) sums[p][r] = set16(0.0f);
  }
  for (int64_t k = 0; k < inputs; k += kTogether<Weight>, weights += kStep) {
    for (int p = 0; p < kPanels; ++p) {
      __builtin_prefetch(reinterpret_cast<const char*>(weights + p * size) + kAhead);
    }
    add_products(x + k, inputs, weights, size, sums);
  }
  for (int r = 0; r < kRows; ++r) {  // vectors that are passed on would not stay in registers
    for (int p = 0; p < kPanels; ++p) {
      alignas(64) float found[kPanel];
      store16(found, sums[p][r]);
      store_sums<Scalar>(params, row + r, panel + p, found);
    }
  }
}

template <int kRows, class Scalar, class Weight>
void multiply_rows(const LinearParams& params, const Input<Weight>* x, int64_t row, int64_t begin,
                   int64_t end) {
  if constexpr (kRows <= kMostRowsOfPairs<Weight>) {
    for (; begin + 2 <= end; begin += 2) multiply<kRows, 2, Scalar, Weight>(params, x, row, begin);
  }
  for (; begin < end; ++begin) multiply<kRows, 1, Scalar, Weight>(params, x, row, begin);
}

// The rows after the last whole block of them, kRows at most.
template <int kRows, class Scalar, class Weight>
void multiply_rest(const LinearParams& params, const Input<Weight>* x, int64_t begin, int64_t end) {
  const int64_t rest = params.rows % kMostRows;
  if (rest == kRows) {
    return multiply_rows<kRows, Scalar, Weight>(params, x, params.rows - rest, begin, end);
  }
  if constexpr (kRows > 1) multiply_rest<kRows - 1, Scalar, Weight>(params, x, begin, end);
}

template <class Scalar, class Weight>
void multiply_panels(const LinearParams& params, const Input<Weight>* x, int64_t begin,
                     int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {  // it stays near while the rows pass
    for (int64_t row = 0; row + kMostRows <= params.rows; row += kMostRows) {
      multiply<kMostRows, 1, Scalar, Weight>(params, x, row, panel);
    }
  }
  multiply_rest<kMostRows - 1, Scalar, Weight>(params, x, begin, end);
}

// The inputs as they are multiplied, each row padded with zeros.
template <class Scalar, class Weight>
const Input<Weight>* inputs_of(const LinearParams& params, char* scratch) {
  const int64_t inputs = params.inputs, stride = padded<Weight>(inputs);
  const Scalar* from = static_cast<const Scalar*>(params.x);
  if constexpr (kSame<Scalar, Input<Weight>>) {
    if (stride == inputs) return from;
  }
  Input<Weight>* const begin = reinterpret_cast<Input<Weight>*>(scratch);
  for (int64_t row = 0; row < params.rows; ++row, from += inputs) {
    Input<Weight>* to = begin + row * stride;
    for (int64_t i = 0; i < stride; i += kLanes) {
      store_part16(to + i, stride - i, load_part16(from + i, inputs - i));
    }
  }
  return begin;
}

template <class Scalar, class Weight>
void linear_with(const LinearParams& params, const Team& team) {
  const Input<Weight>* x = inputs_of<Scalar, Weight>(params, team.scratch);
  const int64_t panels = (params.outputs + kPanel - 1) / kPanel;
  const int64_t inputs = params.inputs > 0 ? params.inputs : 1;
  const int64_t bytes = inputs * kPanel * static_cast<int64_t>(sizeof(Weight));
  const int64_t pairs = kTaskBytes / (2 * bytes), each = pairs > 1 ? 2 * pairs : 2;
  for_each(team, (panels + each - 1) / each, [&](int64_t, int64_t task) {
    const int64_t begin = task * each, end = begin + each;
    multiply_panels<Scalar, Weight>(params, x, begin, end < panels ? end : panels);
  });
}

template <class Scalar>
void linear_of(const LinearParams& params, const Team& team) {
  if (params.scale) return linear_with<Scalar, int8_t>(params, team);
  linear_with<Scalar, Scalar>(params, team);
}

int64_t linear_scratch_bytes(const LinearParams& params) {
  const int64_t numbers = params.rows * padded<Bf16>(params.inputs);
  return params.dtype == DType::kF32 ? 0 : numbers * static_cast<int64_t>(sizeof(float));
}

void linear(const LinearParams& params, const Team& team) {
  switch (params.dtype) {
    case DType::kF32: return linear_of<float>(params, team);
    case DType::kBf16: return linear_of<Bf16>(params, team);
    case DType::kF16: return linear_of<F16>(params, team);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
