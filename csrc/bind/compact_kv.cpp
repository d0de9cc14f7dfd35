#include "backend.h"

namespace tapout::bind {
namespace {

void set_cache(const Arguments& arguments, const Tensor& cache, CompactKvParams& params) {
  params.layers = arguments.size("cache", cache, 6, 0);
  params.cache_rows = params.block_table ? cache.size(2) : params.batch;
  params.heads = cache.size(3);
  params.slots = cache.size(4);
  const int64_t width = cache.size(5), each = cache.element_size();
  params.cache = static_cast<char*>(arguments.entries(
      "cache", cache, {params.layers, 2, params.cache_rows, params.heads, params.slots, width}));
  params.bytes = width * each;
  params.layer_stride = cache.stride(0) * each;
  params.kind_stride = cache.stride(1) * each;
  params.row_stride = cache.stride(2) * each;
  params.head_stride = cache.stride(3) * each;
  params.slot_stride = cache.stride(4) * each;
}

}  // namespace

void compact_kv(const Tensor& path,                 // [B, N]
                const Tensor& num_accepted,         // [B]
                const Tensor& start,                // [B]
                const OptionalTensor& block_table,  // [B, M]
                const Tensor& cache,                // [layers, 2, B or pages, heads, slots, width]
                const OptionalTensor& length) {     // [B]
  const Arguments arguments("compact_kv", path);
  CompactKvParams params = {};
  params.batch = arguments.size("path", path, 2, 0);
  params.nodes = arguments.nodes("path", path.size(1));
  const int64_t batch = params.batch;
  params.path = arguments.input<int32_t>("path", path, {batch, params.nodes});
  params.num_accepted = arguments.input<int32_t>("num_accepted", num_accepted, {batch});
  params.start = arguments.input<int32_t>("start", start, {batch});
  if (block_table) {
    params.table_pages = arguments.size("block_table", *block_table, 2, 1);
    params.block_table =
        arguments.input<int32_t>("block_table", block_table, {batch, params.table_pages});
  }
  set_cache(arguments, cache, params);
  if (length) params.length = arguments.data<int32_t>("length", *length, {batch});
  run(params, path);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(compact_kv)
