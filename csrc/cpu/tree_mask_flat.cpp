// tree_mask_flat: masks of a ragged batch one after the other. The tensor was ones once: what the
// call before has written becomes ones again, then the trees are written; no prefix is filled.
#include <string.h>

#include "../core/tree.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// Entries [at, at + n) become the lowest n bits of `word`.
static void write_entries(const TreeMaskFlatParams& params, int64_t at, int64_t n, uint32_t word) {
  if (!params.packed) {
    for (int64_t i = 0; i < n; ++i) params.mask[at + i] = word >> i & 1u;
    return;
  }
  while (n > 0) {
    const int64_t shift = at & 7, room = 8 - shift, some = n < room ? n : room;
    const uint32_t ours = ((1u << some) - 1u) << shift;
    uint8_t& byte = params.mask[at >> 3];
    byte = static_cast<uint8_t>((byte & ~ours) | (word << shift & ours));
    word >>= some;
    at += some;
    n -= some;
  }
}

static int64_t within(int64_t value, int64_t most) {
  return value < 0 ? 0 : value > most ? most : value;
}

// The Q x Q entries of request b whose segment begins at entry `begin`.
static void write_tree(const TreeMaskFlatParams& params, int64_t b, int64_t begin, int64_t past,
                       bool restore) {
  const int64_t rows = params.rows, width = past + rows;
  const int32_t* ancestors = params.ancestors + b * params.nodes * bit_words(params.nodes);
  for (int64_t q = 0; q < rows; ++q) {
    for (int64_t k = 0; k < rows; k += 32) {
      const int64_t n = rows - k < 32 ? rows - k : 32;
      const uint32_t word =
          restore ? 0xFFFFFFFFu : visible_word(ancestors, params.nodes, rows, q, k >> 5);
      write_entries(params, begin + q * width + past + k, n, word);
    }
  }
}

// Elements of a segment.
static int64_t segment(const TreeMaskFlatParams& params, int64_t past) {
  const int64_t entries = params.rows * (past + params.rows);
  return params.packed ? (entries + 7) / 8 : entries;
}

void tree_mask_flat(const TreeMaskFlatParams& params) {
  const int64_t unit = params.packed ? 8 : 1;
  const int64_t most = params.size / params.batch * unit / params.rows - params.rows;
  int64_t begin = 0;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t past = within(params.written[b], most);
    if (params.written[b] >= 0) write_tree(params, b, begin * unit, past, true);
    begin += segment(params, past);
  }
  begin = 0;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t past = within(params.past[b], most);
    params.start[b] = static_cast<int32_t>(begin);
    params.written[b] = static_cast<int32_t>(past);
    write_tree(params, b, begin * unit, past, false);
    begin += segment(params, past);
  }
  params.start[params.batch] = static_cast<int32_t>(begin);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
