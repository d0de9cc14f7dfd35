#include "backend.h"

namespace tapout::bind {

void tree_attention(const Tensor& query,                // [B, heads, N, D]
                    const Tensor& keys,                 // [B or pages, kv_heads, slots, D]
                    const Tensor& values,               // as keys
                    const Tensor& past,                 // [B]
                    const OptionalTensor& block_table,  // [B, table_pages]
                    const OptionalTensor& tree_mask,    // [B, N, ceil(among/32)]
                    int64_t among, double scale,
                    const Tensor& mixed) {  // as query
  const Arguments arguments("tree_attention", query);
  TreeAttentionParams params = {};
  params.batch = arguments.size("query", query, 4, 0);
  params.heads = query.size(1);
  params.tokens = query.size(2);
  params.head_dim = arguments.head_dim("query", query.size(3));
  params.kv_heads = arguments.size("keys", keys, 4, 1);
  params.slots = keys.size(2);
  params.pages = keys.size(0);
  if (params.kv_heads < 1 || params.heads % params.kv_heads != 0) {
    arguments.fail("keys", "of a number of heads that divides " + std::to_string(params.heads),
                   std::to_string(params.kv_heads));
  }
  const int64_t batch = params.batch, tokens = params.tokens;
  const Shape kept = {block_table ? params.pages : batch, params.kv_heads, params.slots,
                      params.head_dim};
  const Shape asked = {batch, params.heads, tokens, params.head_dim};
  params.query = arguments.heads("query", query, asked, &params.dtype);
  params.keys = arguments.heads("keys", keys, kept, &params.dtype);
  params.values = arguments.heads("values", values, kept, &params.dtype);
  params.past = arguments.input<int32_t>("past", past, {batch});
  if (block_table) {
    params.table_pages = arguments.size("block_table", *block_table, 2, 1);
    params.block_table =
        arguments.input<int32_t>("block_table", block_table, {batch, params.table_pages});
  }
  params.among = tree_mask ? among : tokens;
  if (params.among < 1) arguments.fail("among", "at least 1", std::to_string(among));
  params.tree_mask =
      arguments.input<int32_t>("tree_mask", tree_mask, {batch, tokens, mask_words(params.among)});
  params.scale = static_cast<float>(scale);
  params.mixed = arguments.heads("mixed", mixed, asked, &params.dtype);
  if (batch > 0 && tokens > 0 && params.heads > 0) run(params, query);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(tree_attention)
