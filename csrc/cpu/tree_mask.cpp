// tree_mask: the bits of who sees whom as bits, bools, or 0 and -inf (core/tree.h).
#include <string.h>

#include "../core/tree.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int64_t kMostWords = kMostNodes / 32 + 1;

// Byte i of the result is bit i.
static uint64_t spread_byte(uint32_t bits) {
  const uint64_t each = (bits & 0xFFu) * 0x0101010101010101u & 0x8040201008040201u;
  return (each + 0x7F7F7F7F7F7F7F7Fu) >> 7 & 0x0101010101010101u;
}

static void write_bools(const uint32_t* words, int64_t columns, uint8_t* to) {
  const int64_t whole = columns / 8 * 8;
  for (int64_t k = 0; k < whole; k += 8) {
    const uint64_t bytes = spread_byte(words[k >> 5] >> (k & 31));
    memcpy(to + k, &bytes, 8);
  }
  for (int64_t k = whole; k < columns; ++k) to[k] = words[k >> 5] >> (k & 31) & 1u;
}

// `hidden`: the bits of -inf; 0 is 0 in every dtype.
template <class Bits>
static void write_additive(const uint32_t* words, int64_t columns, Bits hidden, Bits* to) {
  for (int64_t k = 0; k < columns; ++k) {
    const uint32_t seen = words[k >> 5] >> (k & 31) & 1u;
    to[k] = static_cast<Bits>(hidden & static_cast<Bits>(seen - 1u));
  }
}

static void write_row(const MaskRows& mask, const uint32_t* words, int64_t at) {
  const int64_t columns = mask.rows;
  switch (mask.type) {
    case MaskType::kBits:
      memcpy(static_cast<int32_t*>(mask.data) + at, words, 4u * bit_words(columns));
      return;
    case MaskType::kBool: return write_bools(words, columns, static_cast<uint8_t*>(mask.data) + at);
    case MaskType::kF32:
      return write_additive(words, columns, 0xFF800000u, static_cast<uint32_t*>(mask.data) + at);
    case MaskType::kBf16:
    case MaskType::kF16: {
      const uint16_t hidden = mask.type == MaskType::kBf16 ? 0xFF80u : 0xFC00u;
      return write_additive(words, columns, hidden, static_cast<uint16_t*>(mask.data) + at);
    }
  }
}

void tree_mask(const TreeMaskParams& params) {
  const MaskRows& mask = params.mask;
  const int64_t words = bit_words(params.nodes);
  uint32_t row[kMostWords];
  for (int64_t b = 0; b < params.batch; ++b) {
    const int32_t* ancestors = params.ancestors + b * params.nodes * words;
    for (int64_t q = 0; q < mask.rows; ++q) {
      for (int64_t w = 0; w < bit_words(mask.rows); ++w) {
        row[w] = visible_word(ancestors, params.nodes, mask.rows, q, w);
      }
      write_row(mask, row, b * mask.batch_stride + q * mask.row_stride);
    }
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
