#include "backend.h"
#include "panels.h"

namespace tapout::bind {
namespace {

// Where requests begin: they follow each other, and every token belongs to one.
const int32_t* starts(const Arguments& arguments, const Tensor& start, int64_t batch,
                      int64_t tokens) {
  const int32_t* found = arguments.input<int32_t>("start", start, {batch + 1});
  for (int64_t b = 0; b <= batch; ++b) {
    const bool ends = (b > 0 || found[b] == 0) && (b < batch || found[b] == tokens);
    if (!ends || (b > 0 && found[b] < found[b - 1])) {
      arguments.fail("start", "rising from 0 to " + std::to_string(tokens),
                     std::to_string(found[b]));
    }
  }
  return found;
}

}  // namespace

void decoder_layer(const Tensor& x,                  // [T, hidden]
                   const Tensor& cos,                // [T, head_dim]
                   const Tensor& sin,                // [T, head_dim]
                   const Tensor& slot,               // [T]
                   const Tensor& start,              // [B+1]
                   const Tensor& past,               // [B]
                   const OptionalTensor& tree_mask,  // [B, width, ceil(among / 32)]
                   int64_t among,
                   const Tensor& keys,    // [B, kv_heads, slots, head_dim]
                   const Tensor& values,  // as keys
                   const Tensor& before,  // [hidden]
                   const Tensor& qkv, const OptionalTensor& qkv_bias,
                   const OptionalTensor& q_norm,  // [head_dim]
                   const OptionalTensor& k_norm,  // [head_dim]
                   const Tensor& out,
                   const Tensor& between,  // [hidden]
                   const Tensor& gate_up, const Tensor& down,
                   const OptionalTensor& scale,  // [outputs of qkv, out, gate_up, down]
                   int64_t heads, double eps) {
  const Arguments arguments("decoder_layer", x);
  DecoderLayerParams params = {};
  const int64_t tokens = params.tokens = arguments.size("x", x, 2, 0), hidden = x.size(1);
  const int64_t batch = params.batch = arguments.size("past", past, 1, 0);
  const int64_t kv_heads = params.kv_heads = arguments.size("keys", keys, 4, 1);
  const int64_t dim = params.head_dim = arguments.head_dim("keys", keys.size(3));
  params.hidden = hidden;
  params.slots = keys.size(2);
  params.heads = heads;
  params.feed = arguments.size("down", down, 3, 1) * (down.size(2) / kPanel);  // even in bf16
  params.among = among;
  params.eps = static_cast<float>(eps);
  if (heads < 1 || kv_heads < 1 || heads % kv_heads || dim % 2) {
    arguments.fail("heads", "a multiple of kv_heads, with an even head_dim",
                   std::to_string(heads) + " of " + std::to_string(kv_heads));
  }
  const auto floats = [&](const char* name, const Tensor& tensor, Shape shape) {
    return arguments.floats(name, tensor, shape, params.dtype);
  };
  params.x = arguments.floats("x", x, {tokens, hidden}, &params.dtype);
  params.cos = floats("cos", cos, {tokens, dim});
  params.sin = floats("sin", sin, {tokens, dim});
  params.slot = arguments.input<int64_t>("slot", slot, {tokens});
  params.start = starts(arguments, start, batch, tokens);
  params.past = arguments.input<int32_t>("past", past, {batch});
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t count = params.start[b + 1] - params.start[b];
    if (count > params.width) params.width = count;
  }
  if (tree_mask && among < 1) arguments.fail("among", "at least 1", std::to_string(among));
  params.tree_mask =
      arguments.input<int32_t>("tree_mask", tree_mask, {batch, params.width, mask_words(among)});
  const Shape kept = {batch, kv_heads, params.slots, dim};
  params.keys = arguments.heads("keys", keys, kept, &params.dtype);
  params.values = arguments.heads("values", values, kept, &params.dtype);
  const int64_t all = (heads + 2 * kv_heads) * dim, mixed = heads * dim;
  params.scale = arguments.input<float>("scale", scale, {all + hidden + 2 * params.feed + hidden});
  const auto product = [&](const char* name, const Tensor& panels, int64_t outputs,
                           int64_t inputs) -> const void* {
    return panel_data(arguments, name, panels, outputs, inputs, params.dtype,
                      params.scale != nullptr);
  };
  params.before = floats("before", before, {hidden});
  params.qkv = product("qkv", qkv, all, hidden);
  params.qkv_bias = arguments.input<float>("qkv_bias", qkv_bias, {all});
  if (q_norm) params.q_norm = floats("q_norm", *q_norm, {dim});
  if (k_norm) params.k_norm = floats("k_norm", *k_norm, {dim});
  params.out = product("out", out, hidden, mixed);
  params.between = floats("between", between, {hidden});
  params.gate_up = product("gate_up", gate_up, 2 * params.feed, hidden);
  params.down = product("down", down, hidden, params.feed);
  if (tokens > 0) run(params);
}

}  // namespace tapout::bind

TAPOUT_REGISTER_DECODER(decoder_layer)
