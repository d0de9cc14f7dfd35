#include "backend.h"

namespace tapout::bind {

void tree_layout(const Tensor& parents,           // [B, N]
                 const OptionalTensor& position,  // [B]
                 const Tensor& size,              // [B]
                 const Tensor& valid,             // [B]
                 const Tensor& depth,             // [B, N]
                 const Tensor& position_ids,      // [B, N+1]
                 const Tensor& first_child,       // [B, N+1]
                 const Tensor& next_sibling,      // [B, N]
                 const Tensor& ancestors) {       // [B, N, ceil(N/32)]
  const Arguments arguments("tree_layout", parents);
  TreeLayoutParams params = {};
  params.batch = arguments.size("parents", parents, 2, 0);
  params.nodes = arguments.nodes("parents", parents.size(1));
  const int64_t batch = params.batch, nodes = params.nodes;
  params.parents = arguments.input<int32_t>("parents", parents, {batch, nodes});
  params.position = arguments.input<int64_t>("position", position, {batch});
  params.size = arguments.data<int32_t>("size", size, {batch});
  params.valid = arguments.data<bool>("valid", valid, {batch});
  params.depth = arguments.data<int32_t>("depth", depth, {batch, nodes});
  params.position_ids = arguments.data<int64_t>("position_ids", position_ids, {batch, nodes + 1});
  params.first_child = arguments.data<int32_t>("first_child", first_child, {batch, nodes + 1});
  params.next_sibling = arguments.data<int32_t>("next_sibling", next_sibling, {batch, nodes});
  params.ancestors =
      arguments.data<int32_t>("ancestors", ancestors, {batch, nodes, mask_words(nodes)});
  run(params, parents);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(tree_layout)
