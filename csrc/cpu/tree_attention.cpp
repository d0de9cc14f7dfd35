// tree_attention: new tokens over the keys and values before them and those of their own tree.
// Scores are taken relative to the largest of all, and every sum over slots takes them in order, so
// that what is not seen adds 0: the bits of a row depend neither on how many there are nor on
// threads nor on what it does not see. A node has those that its path alone would have.
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
  float sum[kTaskRows];
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
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    store16(to + i, load_part16(from + i, head_dim - i));
  }
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
  const int64_t rest = (begin - end) % kLanes;  // slots that are scored with the last ones
  memset(to, 0, (rest < 0 ? rest + kLanes : rest) * width * sizeof(float));
}

// One row's scores with a tile, sixteen slots at a time. `kVectors`: those of a row, 0 where they
// are not known before.
template <int kVectors>
inline void score_row(const float* query, const float* tile, int64_t slots, int64_t vectors,
                      float* to) {
  const int64_t count = kVectors ? kVectors : vectors;
  Vec16 own[kVectors ? kVectors : kMostVectors];
  for (int64_t v = 0; v < count; ++v) own[v] = load16(query + v * kLanes);
  for (int64_t slot = 0; slot < slots; slot += kLanes) {
    Vec16 sum[kLanes];
    for (int64_t i = 0; i < kLanes; ++i, tile += count * kLanes) {
      sum[i] = mul16(own[0], load16(tile));
      for (int64_t v = 1; v < count; ++v) sum[i] = fma16(own[v], load16(tile + v * kLanes), sum[i]);
    }
    store16(to + slot, reduce_add16(sum));
  }
}

// mixed += weights * values, sum += weights: slot by slot, so that one that is not seen adds 0.
template <int kVectors>
inline void mix_row(const float* weight, const float* tile, int64_t slots, int64_t vectors,
                    float* sum, float* mixed) {
  const int64_t count = kVectors ? kVectors : vectors;
  Vec16 all[kVectors ? kVectors : kMostVectors];
  for (int64_t v = 0; v < count; ++v) all[v] = load16(mixed + v * kLanes);
  float total = *sum;
  for (int64_t slot = 0; slot < slots; ++slot, tile += count * kLanes) {
    const Vec16 own = set16(weight[slot]);
    total += weight[slot];
    for (int64_t v = 0; v < count; ++v) all[v] = fma16(own, load16(tile + v * kLanes), all[v]);
  }
  *sum = total;
  for (int64_t v = 0; v < count; ++v) store16(mixed + v * kLanes, all[v]);
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

// Scores of `slots` slots, a whole number of tiles, to weights relative to the largest.
inline void weigh(float* weight, int64_t slots) {
  Vec16 best = set16(-INFINITY);
  for (int64_t i = 0; i < slots; i += kLanes) best = max16(load16(weight + i), best);
  const float max = reduce_max16(best);
  const Vec16 base = set16(max == -INFINITY ? 0.0f : max);
  const Vec16 rate = set16(static_cast<float>(kLog2E));
  for (int64_t i = 0; i < slots; i += kLanes) {
    store16(weight + i, exp2_16(sub16(load16(weight + i), base), rate));
  }
}

// Zeros where nothing was seen.
template <class Scalar>
inline void store_mixed(const TreeAttentionParams& params, const QueryBlock& block,
                        const AttentionBuffers& buffers) {
  const int64_t width = vectors_of(params.head_dim) * kLanes;
  for (int64_t r = 0; r < block.count; ++r) {
    Scalar* to = const_cast<Scalar*>(query_row<Scalar>(params, params.mixed, block, r));
    const float sum = buffers.sum[r] == 0.0f ? 1.0f : buffers.sum[r];
    for (int64_t i = 0; i < params.head_dim; i += kLanes) {
      const Vec16 mixed = div16(load16(buffers.mixed + r * width + i), set16(sum));
      store_part16(to + i, params.head_dim - i, mixed);
    }
  }
}

inline int64_t whole_tiles(int64_t slots) { return (slots + kTile - 1) / kTile * kTile; }

// `weight`: room for the block's rows of scores, whole tiles each.
template <class Scalar, int kVectors>
void attend(const TreeAttentionParams& params, const QueryBlock& block, float* weight) {
  AttentionBuffers buffers;
  const int64_t vectors = vectors_of(params.head_dim), width = vectors * kLanes;
  const int64_t past = slots_before(params, block.batch), slots = slots_seen(params, past);
  const int64_t row = whole_tiles(slots);
  load_queries<Scalar>(params, block, buffers.query);
  memset(buffers.mixed, 0, block.count * width * sizeof(float));
  for (int64_t begin = 0; begin < slots; begin += kTile) {
    const int64_t end = begin + kTile < slots ? begin + kTile : slots;
    load_tile<Scalar>(params, params.keys, block, begin, end, buffers.tile);
    for (int64_t r = 0; r < block.count; ++r) {
      float* scores = weight + r * row + begin;
      score_row<kVectors>(buffers.query + r * width, buffers.tile, end - begin, vectors, scores);
      hide(params, block, r, past, begin, end, scores);
    }
  }
  for (int64_t r = 0; r < block.count; ++r) {
    weigh(weight + r * row, row);
    buffers.sum[r] = 0.0f;
  }
  for (int64_t begin = 0; begin < slots; begin += kTile) {
    const int64_t end = begin + kTile < slots ? begin + kTile : slots;
    load_tile<Scalar>(params, params.values, block, begin, end, buffers.tile);
    for (int64_t r = 0; r < block.count; ++r) {
      mix_row<kVectors>(weight + r * row + begin, buffers.tile, end - begin, vectors,
                        &buffers.sum[r], buffers.mixed + r * width);
    }
  }
  store_mixed<Scalar>(params, block, buffers);
}

template <class Scalar>
void attend_as(const TreeAttentionParams& params, const QueryBlock& block, float* weight) {
  switch (params.head_dim) {
    case 64: return attend<Scalar, 4>(params, block, weight);
    case 128: return attend<Scalar, 8>(params, block, weight);
    default: return attend<Scalar, 0>(params, block, weight);
  }
}

int64_t tree_attention_scratch_bytes(const TreeAttentionParams& params) {
  int64_t slots = 0;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t seen = slots_seen(params, slots_before(params, b));
    if (seen > slots) slots = seen;
  }
  return kTaskRows * whole_tiles(slots) * static_cast<int64_t>(sizeof(float));
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
  for_each(few, params.batch * params.kv_heads * blocks, [&](int64_t worker, int64_t task) {
    const int64_t begin = task % blocks * kTaskRows;
    const int64_t count = rows - begin < kTaskRows ? rows - begin : kTaskRows;
    const int64_t head = task / blocks;
    const QueryBlock block = {head / params.kv_heads, head % params.kv_heads, begin, count};
    float* weight = reinterpret_cast<float*>(few.scratch + worker * few.scratch_stride);
    switch (params.dtype) {
      case DType::kF32: return attend_as<float>(params, block, weight);
      case DType::kBf16: return attend_as<Bf16>(params, block, weight);
      case DType::kF16: return attend_as<F16>(params, block, weight);
    }
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
