// decoder_layer: one layer of a Llama-like decoder for few tokens, its products those of `linear`
// and its attention `tree_attention`. A forward is some hundreds of small steps: called one by one
// from Python they cost as much as half of reading the weights.
#include "around_attention.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {
namespace {

constexpr int64_t kAlign = 64;

int64_t bytes_of(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

int64_t qkv_heads(const DecoderLayerParams& params) { return params.heads + 2 * params.kv_heads; }

// The queries of request b, or what becomes of them.
HeadRows queries(const DecoderLayerParams& params, const char* from, int64_t b, int64_t heads) {
  const int64_t size = heads * params.head_dim;
  return {from + params.start[b] * size * bytes_of(params.dtype), 0, params.head_dim, size};
}

HeadRows request(const DecoderLayerParams& params, const HeadRows& kept, int64_t b) {
  const int64_t bytes = b * kept.batch_stride * bytes_of(params.dtype);
  return {static_cast<const char*>(kept.data) + bytes, 0, kept.head_stride, kept.row_stride};
}

// What request b attends to, without its queries.
TreeAttentionParams attention_of(const DecoderLayerParams& params, int64_t b) {
  TreeAttentionParams own = {};
  own.batch = own.pages = 1;
  own.heads = params.heads;
  own.kv_heads = params.kv_heads;
  own.tokens = params.start[b + 1] - params.start[b];
  own.head_dim = params.head_dim;
  own.slots = params.slots;
  own.dtype = params.dtype;
  own.keys = request(params, params.keys, b);
  own.values = request(params, params.values, b);
  own.past = params.past + b;
  own.among = params.tree_mask ? params.among : own.tokens;
  const int64_t words = (params.among + 31) / 32;
  own.tree_mask = params.tree_mask ? params.tree_mask + b * params.width * words : nullptr;
  own.scale = static_cast<float>(1.0 / sqrt(static_cast<double>(params.head_dim)));
  return own;
}

int64_t rounded_up(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// For the kernels in turn, of each worker; the inputs of a product are the first one's.
int64_t scratch_bytes_of(const DecoderLayerParams& params) {
  int64_t inputs = params.hidden > params.feed ? params.hidden : params.feed;
  const int64_t mixed = params.heads * params.head_dim;
  inputs = inputs > mixed ? inputs : mixed;
  int64_t most = linear_scratch_bytes({params.tokens, inputs, 0, params.dtype});
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t attention = tree_attention_scratch_bytes(attention_of(params, b));
    most = attention > most ? attention : most;
  }
  return rounded_up(most);
}

struct Buffers {
  char* normed;   // [T, hidden]
  char* qkv;      // [T, heads + 2 kv_heads, head_dim]
  char* mixed;    // [T, heads, head_dim]
  char* delta;    // [T, hidden]
  char* gate_up;  // [T, 2 feed]
  char* active;   // [T, feed]
};

// Of the numbers above, in their order.
struct Sizes {
  int64_t bytes[6];

  explicit Sizes(const DecoderLayerParams& params) {
    const int64_t each = params.tokens * bytes_of(params.dtype), dim = params.head_dim;
    const int64_t rows[] = {params.hidden, qkv_heads(params) * dim, params.heads * dim,
                            params.hidden, 2 * params.feed,         params.feed};
    for (int i = 0; i < 6; ++i) bytes[i] = rounded_up(each * rows[i]);
  }

  int64_t total() const {
    int64_t sum = 0;
    for (const int64_t size : bytes) sum += size;
    return sum;
  }

  Buffers from(char* begin) const {
    Buffers found;
    char** all[] = {&found.normed, &found.qkv,     &found.mixed,
                    &found.delta,  &found.gate_up, &found.active};
    for (int i = 0; i < 6; ++i) {
      *all[i] = begin;
      begin += bytes[i];
    }
    return found;
  }
};

// Takes the scale of its outputs, and leaves that of the next product's.
void product(const DecoderLayerParams& params, const char* x, int64_t inputs, const void* panels,
             const float*& scale, const float* bias, char* y, int64_t outputs, const Team& team) {
  linear({params.tokens, inputs, outputs, params.dtype, x, panels, scale, bias, y}, team);
  if (scale) scale += outputs;
}

template <class Scalar>
void place_token(const DecoderLayerParams& params, char* qkv, int64_t b, int64_t token) {
  const int64_t dim = params.head_dim, turned = params.heads + params.kv_heads;
  Scalar* own = reinterpret_cast<Scalar*>(qkv) + token * qkv_heads(params) * dim;
  for (int64_t head = 0; head < turned; ++head) {
    Scalar* x = own + head * dim;
    const void* weight = head < params.heads ? params.q_norm : params.k_norm;
    if (weight) norm_row(x, static_cast<const Scalar*>(weight), dim, params.eps, x);
    rotate_head(x, static_cast<const Scalar*>(params.cos) + token * dim,
                static_cast<const Scalar*>(params.sin) + token * dim, dim);
  }
  const int64_t slot = params.slot[token];
  if (slot < 0 || slot >= params.slots) return;
  for (int64_t head = 0; head < params.kv_heads; ++head) {
    const HeadRows* kinds[] = {&params.keys, &params.values};
    for (int64_t kind = 0; kind < 2; ++kind) {
      const HeadRows& to = *kinds[kind];
      const int64_t at = b * to.batch_stride + head * to.head_stride + slot * to.row_stride;
      const Scalar* from = own + (params.heads + kind * params.kv_heads + head) * dim;
      memcpy(static_cast<Scalar*>(const_cast<void*>(to.data)) + at, from, dim * sizeof(Scalar));
    }
  }
}

template <class Scalar>
void place(const DecoderLayerParams& params, char* qkv, const Team& team) {
  const int64_t numbers = params.tokens * qkv_heads(params) * params.head_dim;
  const Team few = numbers < kAloneBelow ? alone(team, 0) : team;
  for_each(few, params.batch, [&](int64_t, int64_t b) {
    for (int64_t token = params.start[b]; token < params.start[b + 1]; ++token) {
      place_token<Scalar>(params, qkv, b, token);
    }
  });
}

template <class Scalar>
void activate(const DecoderLayerParams& params, const Buffers& buffers, const Team& team) {
  const int64_t size = params.feed;
  const Team few = params.tokens * size < kAloneBelow ? alone(team, 0) : team;
  for_each(few, params.tokens, [&](int64_t, int64_t token) {
    const Scalar* both = reinterpret_cast<const Scalar*>(buffers.gate_up) + token * 2 * size;
    silu_and_mul_row(both, size, reinterpret_cast<Scalar*>(buffers.active) + token * size);
  });
}

template <class Scalar>
void layer_of(const DecoderLayerParams& params, const Buffers& buffers, const Team& team) {
  const int64_t hidden = params.hidden, mixed = params.heads * params.head_dim;
  const float* scale = params.scale;
  const RmsNormParams before = {params.tokens, hidden,        params.dtype, params.x,
                                nullptr,       params.before, params.eps,   buffers.normed};
  rms_norm(before, team);
  product(params, buffers.normed, hidden, params.qkv, scale, params.qkv_bias, buffers.qkv,
          qkv_heads(params) * params.head_dim, team);
  place<Scalar>(params, buffers.qkv, team);
  for_each_row(team, params.batch, [&](const Team& few, int64_t b) {
    TreeAttentionParams own = attention_of(params, b);
    own.query = queries(params, buffers.qkv, b, qkv_heads(params));
    own.mixed = queries(params, buffers.mixed, b, params.heads);
    if (own.tokens > 0) tree_attention(own, few);
  });
  product(params, buffers.mixed, mixed, params.out, scale, nullptr, buffers.delta, hidden, team);
  const RmsNormParams between = {params.tokens, hidden,         params.dtype, params.x,
                                 buffers.delta, params.between, params.eps,   buffers.normed};
  rms_norm(between, team);
  product(params, buffers.normed, hidden, params.gate_up, scale, nullptr, buffers.gate_up,
          2 * params.feed, team);
  activate<Scalar>(params, buffers, team);
  product(params, buffers.active, params.feed, params.down, scale, nullptr, buffers.delta, hidden,
          team);
  add_row(static_cast<Scalar*>(params.x), reinterpret_cast<const Scalar*>(buffers.delta),
          params.tokens * hidden);
}

}  // namespace

int64_t decoder_layer_workspace_bytes(const DecoderLayerParams& params, int64_t workers) {
  return kAlign + Sizes(params).total() + workers * scratch_bytes_of(params);
}

void decoder_layer(const DecoderLayerParams& params, char* workspace, const Team& team) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(workspace);
  char* begin = workspace + (kAlign - at % kAlign) % kAlign;
  const Sizes sizes(params);
  const Buffers buffers = sizes.from(begin);
  const Team own = {team.workers, team.run, begin + sizes.total(), scratch_bytes_of(params)};
  switch (params.dtype) {
    case DType::kF32: return layer_of<float>(params, buffers, own);
    case DType::kBf16: return layer_of<Bf16>(params, buffers, own);
    case DType::kF16: return layer_of<F16>(params, buffers, own);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
