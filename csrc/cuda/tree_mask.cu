// tree_mask: the bits of who sees whom as bits, bools, or 0 and -inf (core/tree.h); one launch. A
// thread has a word of bits, or four entries, which it stores at once where they are aligned.
#include <string.h>

#include "../core/tree.h"
#include "device.h"
#include "ops.h"
#include "sizes.h"

namespace tapout::cuda {

constexpr int32_t kEntries = 4;  // of a thread

// Four entries of `Bits`, side by side.
template <class Bits>
struct alignas(kEntries * sizeof(Bits)) FourEntries {
  Bits entry[kEntries];
};

// What a mask of this type consists of: a pattern where a row sees a column, and where it does not.
template <class Bits>
struct Pattern {
  Bits seen;
  Bits hidden;
};

// This thread's row of a request and its unit in the row, a unit being a word or four entries.
struct MaskPlace {
  int64_t b;
  int32_t row;
  int32_t unit;
  bool exists;
};

__device__ inline MaskPlace mask_place(const TreeMaskParams& params, int32_t units,
                                       int32_t blocks) {
  const int32_t at =
      static_cast<int32_t>(blockIdx.x % blocks) * kThreads + static_cast<int32_t>(threadIdx.x);
  return {blockIdx.x / blocks, at / units, at % units, at / units < params.mask.rows};
}

__device__ inline uint32_t word_at(const TreeMaskParams& params, const MaskPlace& at, int32_t w) {
  const int32_t* ancestors = params.ancestors + at.b * params.nodes * bit_words(params.nodes);
  return visible_word(ancestors, params.nodes, params.mask.rows, at.row, w);
}

template <class T>
__device__ inline T* row_of_mask(const MaskRows& mask, const MaskPlace& at) {
  return static_cast<T*>(mask.data) + at.b * mask.batch_stride + at.row * mask.row_stride;
}

__global__ void __launch_bounds__(kThreads)
    tree_mask_bits_kernel(TreeMaskParams params, int32_t words, int32_t blocks) {
  const MaskPlace at = mask_place(params, words, blocks);
  if (!at.exists) return;
  row_of_mask<uint32_t>(params.mask, at)[at.unit] = word_at(params, at, at.unit);
}

template <class Bits>
__global__ void __launch_bounds__(kThreads)
    tree_mask_kernel(TreeMaskParams params, Pattern<Bits> pattern, int32_t units, int32_t blocks) {
  const MaskPlace at = mask_place(params, units, blocks);
  if (!at.exists) return;
  const int32_t column = at.unit * kEntries;
  const int32_t columns = static_cast<int32_t>(params.mask.rows);
  const uint32_t seen = word_at(params, at, column >> 5) >> (column & 31);
  FourEntries<Bits> four;
#pragma unroll
  for (int i = 0; i < kEntries; ++i) four.entry[i] = seen >> i & 1u ? pattern.seen : pattern.hidden;
  Bits* to = row_of_mask<Bits>(params.mask, at) + column;
  if (reinterpret_cast<uintptr_t>(to) % sizeof four == 0 && column + kEntries <= columns) {
    *reinterpret_cast<FourEntries<Bits>*>(to) = four;
    return;
  }
#pragma unroll
  for (int i = 0; i < kEntries; ++i) {
    if (column + i < columns) to[i] = four.entry[i];
  }
}

WorkspaceSize tree_mask_workspace(const TreeMaskParams&) { return {0, 0}; }

template <class Bits>
static cudaError_t launch_mask(const TreeMaskParams& params, Pattern<Bits> pattern, Queue queue) {
  const int32_t units = ceil_divide(params.mask.rows, kEntries);
  const int32_t blocks = ceil_divide(params.mask.rows * units, kThreads);
  return launch(tree_mask_kernel<Bits>, static_cast<unsigned>(params.batch * blocks), kThreads,
                {queue.stream}, params, pattern, units, blocks);
}

cudaError_t tree_mask(const TreeMaskParams& params, Workspace, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  switch (params.mask.type) {
    case MaskType::kBool: return launch_mask<uint8_t>(params, {1, 0}, queue);
    case MaskType::kF32: return launch_mask<uint32_t>(params, {0, 0xFF800000u}, queue);
    case MaskType::kBf16: return launch_mask<uint16_t>(params, {0, 0xFF80u}, queue);
    case MaskType::kF16: return launch_mask<uint16_t>(params, {0, 0xFC00u}, queue);
    case MaskType::kBits: break;
  }
  const int32_t words = static_cast<int32_t>(bit_words(params.mask.rows));
  const int32_t blocks = ceil_divide(params.mask.rows * words, kThreads);
  return launch(tree_mask_bits_kernel, static_cast<unsigned>(params.batch * blocks), kThreads,
                {queue.stream}, params, words, blocks);
}

}  // namespace tapout::cuda
