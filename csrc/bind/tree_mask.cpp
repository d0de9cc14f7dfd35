#include "backend.h"

namespace tapout::bind {

void tree_mask(const Tensor& ancestors,  // [B, N, ceil(N/32)]
               const Tensor& mask) {     // [B, Q, Q], or bits [B, Q, ceil(Q/32)]
  const Arguments arguments("tree_mask", ancestors);
  TreeMaskParams params = {};
  params.batch = arguments.size("ancestors", ancestors, 3, 0);
  params.nodes = arguments.nodes("ancestors", ancestors.size(1));
  const int64_t batch = params.batch, nodes = params.nodes;
  params.ancestors =
      arguments.input<int32_t>("ancestors", ancestors, {batch, nodes, mask_words(nodes)});
  params.mask = arguments.mask_rows("mask", mask, batch, nodes);
  run(params, ancestors);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(tree_mask)
