// tree_attention: new tokens over the keys and values before them and those of their own tree.
// Slots are read in tiles of fixed bounds and every sum takes them in order, so the bits of a row
// depend neither on how many there are nor on threads nor on what it does not see.
#include <math.h>

#include "../core/tree.h"
#include "ops.h"
#include "vec16.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int64_t kTile = 64;      // slots
constexpr int64_t kTaskRows = 16;  // queries that share a tile
constexpr int64_t kMostVectors = kMostHeadDim / kLanes;
constexpr int64_t kAloneBelow = 1 << 18;  // multiplications that are not worth a second thread

// Queries of one request and one head of keys: rows [begin, begin + count) of all pairs of a query
// head of the group and a new token, tokens fastest.
struct QueryBlock {
  int64_t batch;
  int64_t kv_head;
  int64_t begin;
  int64_t count;
};

// Rows are padded with zeros to whole vectors.
struct alignas(64) AttentionBuffers {
  float query[kTaskRows * kMostHeadDim];  // scaled
  float mixed[kTaskRows * kMostHeadDim];
  float tile[kTile * kMostHeadDim];
  float weight[kTaskRows * kTile];
  float max[kTaskRows];
  float sum[kTaskRows];
  float rescale[kTaskRows];
};

inline int64_t vectors_of(int64_t head_dim) { return (head_dim + kLanes - 1) / kLanes; }

template <class Scalar>
inline const Scalar* row_at(const HeadRows& from, int64_t batch, int64_t head, int64_t row) {
  const int64_t offset =
      batch * from.batch_stride + head * from.head_stride + row * from.row_stride;
  return static_cast<const Scalar*>(from.data) + offset;
}

template <class Scalar>
inline void load_row(const Scalar* from, int64_t head_dim, float* to) {
  const int64_t whole = head_dim / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) store16(to + i, load16(from + i));
  if (whole == head_dim) return;
  Scalar tail[kLanes] = {};
  memcpy(tail, from + whole, (head_dim - whole) * sizeof(Scalar));
  store16(to + whole, load16(tail));
}

template <class Scalar>
inline const Scalar* query_row(const TreeAttentionParams& params, const HeadRows& rows,
                               const QueryBlock& block, int64_t r) {
  const int64_t row = block.begin + r, group = params.heads / params.kv_heads;
  return row_at<Scalar>(rows, block.batch, block.kv_head * group + row / params.tokens,
                        row % params.tokens);
}

template <class Scalar>
inline void load_queries(const TreeAttentionParams& params, const QueryBlock& block, float* to) {
  const int64_t width = vectors_of(params.head_dim) * kLanes;
  for (int64_t r = 0; r < block.count; ++r, to += width) {
    load_row(query_row<Scalar>(params, params.query, block, r), params.head_dim, to);
    for (int64_t i = 0; i < width; ++i) to[i] *= params.scale;
  }
}

template <class Scalar>
inline void load_tile(const TreeAttentionParams& params, const HeadRows& from,
                      const QueryBlock& block, int64_t begin, int64_t end, float* to) {
  const int64_t width = vectors_of(params.head_dim) * kLanes;
  for (int64_t slot = begin; slot < end; ++slot, to += width) {
    const int64_t row = row_of_slot(params, block.batch, slot);
    if (row < 0) {
      memset(to, 0, width * sizeof(float));
      continue;
    }
    const int64_t inside = params.block_table ? slot % params.slots : slot;
    load_row(row_at<Scalar>(from, row, block.kv_head, inside), params.head_dim, to);
  }
}

// One row's scores with a tile. `kVectors`: those of a row, 0 where they are not known before.
template <int kVectors>
inline void score_row(const float* query, const float* tile, int64_t slots, int64_t vectors,
                      float* to) {
  const int64_t count = kVectors ? kVectors : vectors;
  Vec16 own[kVectors ? kVectors : kMostVectors];
  for (int64_t v = 0; v < count; ++v) own[v] = load16(query + v * kLanes);
  for (int64_t slot = 0; slot < slots; ++slot, tile += count * kLanes) {
    Vec16 sum = mul16(own[0], load16(tile));
    for (int64_t v = 1; v < count; ++v) sum = fma16(own[v], load16(tile + v * kLanes), sum);
    to[slot] = reduce_add16(sum);
  }
}

// mixed = rescale * mixed + weights * values.
template <int kVectors>
inline void mix_row(const float* weight, const float* tile, int64_t slots, int64_t vectors,
                    float rescale, float* mixed) {
  const int64_t count = kVectors ? kVectors : vectors;
  Vec16 sum[kVectors ? kVectors : kMostVectors];
  for (int64_t v = 0; v < count; ++v) {
    sum[v] = mul16(load16(mixed + v * kLanes), set16(rescale));
  }
  for (int64_t slot = 0; slot < slots; ++slot, tile += count * kLanes) {
    const Vec16 own = set16(weight[slot]);
    for (int64_t v = 0; v < count; ++v) sum[v] = fma16(own, load16(tile + v * kLanes), sum[v]);
  }
  for (int64_t v = 0; v < count; ++v) store16(mixed + v * kLanes, sum[v]);
}

// -inf for what row r of the block does not see among slots [begin, end) and for the rest of the
// tile.
inline void hide(const TreeAttentionParams& params, const QueryBlock& block, int64_t r,
                 int64_t past, int64_t begin, int64_t end, float* weight) {
  for (int64_t i = end - begin; i < kTile; ++i) weight[i] = -INFINITY;
  const int64_t token = (block.begin + r) % params.tokens;
  for (int64_t slot = begin > past ? begin : past; slot < end; ++slot) {
    if (!sees(params, block.batch, token, slot - past)) weight[slot - begin] = -INFINITY;
  }
  if (!params.block_table) return;
  for (int64_t slot = begin; slot < end; ++slot) {
    if (row_of_slot(params, block.batch, slot) < 0) weight[slot - begin] = -INFINITY;
  }
}

// Scores to weights relative to the largest so far, what was summed before with them.
inline void weigh(float* weight, float* max, float* sum, float* rescale) {
  Vec16 best = set16(*max);
  for (int64_t i = 0; i < kTile; i += kLanes) best = max16(load16(weight + i), best);
  const float above = reduce_max16(best), base = above == -INFINITY ? 0.0f : above;
  const Vec16 rate = set16(static_cast<float>(kLog2E));
  Vec16 added = set16(0.0f);
  for (int64_t i = 0; i < kTile; i += kLanes) {
    const Vec16 own = exp2_16(sub16(load16(weight + i), set16(base)), rate);
    store16(weight + i, own);
    added = add16(added, own);
  }
  *rescale = reduce_max16(exp2_16(set16(*max - base), rate));
  *sum = *sum * *rescale + reduce_add16(added);
  *max = above;
}

// Zeros where nothing was seen.
template <class Scalar>
inline void store_mixed(const TreeAttentionParams& params, const QueryBlock& block,
                        const AttentionBuffers& buffers) {
  const int64_t width = vectors_of(params.head_dim) * kLanes;
  for (int64_t r = 0; r < block.count; ++r) {
    Scalar* to = const_cast<Scalar*>(query_row<Scalar>(params, params.mixed, block, r));
    const float sum = buffers.sum[r] == 0.0f ? 1.0f : buffers.sum[r];
    for (int64_t i = 0; i < params.head_dim; ++i) {
      from_f32(buffers.mixed[r * width + i] / sum, to + i);
    }
  }
}

template <class Scalar, int kVectors>
void attend(const TreeAttentionParams& params, const QueryBlock& block) {
  AttentionBuffers buffers;
  const int64_t vectors = vectors_of(params.head_dim), width = vectors * kLanes;
  const int64_t past = slots_before(params, block.batch), slots = slots_seen(params, past);
  load_queries<Scalar>(params, block, buffers.query);
  memset(buffers.mixed, 0, block.count * width * sizeof(float));
  for (int64_t r = 0; r < block.count; ++r) {
    buffers.max[r] = -INFINITY;
    buffers.sum[r] = 0.0f;
  }
  for (int64_t begin = 0; begin < slots; begin += kTile) {
    const int64_t end = begin + kTile < slots ? begin + kTile : slots;
    load_tile<Scalar>(params, params.keys, block, begin, end, buffers.tile);
    for (int64_t r = 0; r < block.count; ++r) {
      float* weight = buffers.weight + r * kTile;
      score_row<kVectors>(buffers.query + r * width, buffers.tile, end - begin, vectors, weight);
      hide(params, block, r, past, begin, end, weight);
      weigh(weight, &buffers.max[r], &buffers.sum[r], &buffers.rescale[r]);
    }
    load_tile<Scalar>(params, params.values, block, begin, end, buffers.tile);
    for (int64_t r = 0; r < block.count; ++r) {
      mix_row<kVectors>(buffers.weight + r * kTile, buffers.tile, end - begin, vectors,
                        buffers.rescale[r], buffers.mixed + r * width);
    }
  }
  store_mixed<Scalar>(params, block, buffers);
}

template <class Scalar>
void attend_as(const TreeAttentionParams& params, const QueryBlock& block) {
  switch (params.head_dim) {
    case 64: return attend<Scalar, 4>(params, block);
    case 128: return attend<Scalar, 8>(params, block);
    default: return attend<Scalar, 0>(params, block);
  }
}

void tree_attention(const TreeAttentionParams& params, const Team& team) {
  const int64_t rows = params.heads / params.kv_heads * params.tokens;
  const int64_t blocks = (rows + kTaskRows - 1) / kTaskRows;
  int64_t work = 0;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t slots = slots_seen(params, slots_before(params, b));
    work += slots * params.heads * params.tokens * params.head_dim;
  }
  const Team few = work < kAloneBelow ? alone(team, 0) : team;
  for_each(few, params.batch * params.kv_heads * blocks, [&](int64_t, int64_t task) {
    const int64_t begin = task % blocks * kTaskRows;
    const int64_t count = rows - begin < kTaskRows ? rows - begin : kTaskRows;
    const int64_t head = task / blocks;
    const QueryBlock block = {head / params.kv_heads, head % params.kv_heads, begin, count};
    switch (params.dtype) {
      case DType::kF32: return attend_as<float>(params, block);
      case DType::kBf16: return attend_as<Bf16>(params, block);
      case DType::kF16: return attend_as<F16>(params, block);
    }
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
