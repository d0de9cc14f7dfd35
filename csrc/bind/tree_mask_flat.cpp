#include "backend.h"

namespace tapout::bind {

void tree_mask_flat(const Tensor& ancestors,  // [B, N, ceil(N/32)]
                    const Tensor& past,       // [B]
                    bool root,
                    const Tensor& mask,     // [S]
                    const Tensor& written,  // [B]
                    const Tensor& start) {  // [B+1]
  const Arguments arguments("tree_mask_flat", ancestors);
  TreeMaskFlatParams params = {};
  params.batch = arguments.size("ancestors", ancestors, 3, 0);
  params.nodes = arguments.nodes("ancestors", ancestors.size(1));
  params.rows = params.nodes + root;
  const int64_t batch = params.batch, nodes = params.nodes;
  params.ancestors =
      arguments.input<int32_t>("ancestors", ancestors, {batch, nodes, mask_words(nodes)});
  params.past = arguments.input<int32_t>("past", past, {batch});
  params.size = arguments.size("mask", mask, 1, 0);
  params.packed = mask.scalar_type() == ScalarType::Byte;
  const int64_t entries = params.rows * params.rows;
  const int64_t least = batch * (params.packed ? (entries + 7) / 8 : entries);
  if (batch < 1 || params.size < least || params.size > INT32_MAX) {
    arguments.fail("mask", "of " + std::to_string(least) + " to 2147483647 elements",
                   std::to_string(params.size));
  }
  params.mask = params.packed
                    ? arguments.data<uint8_t>("mask", mask, {params.size})
                    : reinterpret_cast<uint8_t*>(arguments.data<bool>("mask", mask, {params.size}));
  params.written = arguments.data<int32_t>("written", written, {batch});
  params.start = arguments.data<int32_t>("start", start, {batch + 1});
  run(params, ancestors);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(tree_mask_flat)
