#include "backend.h"

namespace tapout::bind {

void tree_rerank(const Tensor& tokens,       // [B, M]
                 const Tensor& parents,      // [B, M]
                 const Tensor& score,        // [B, M]
                 const Tensor& out_tokens,   // [B, N]
                 const Tensor& out_parents,  // [B, N]
                 const Tensor& node) {       // [B, N]
  const Arguments arguments("tree_rerank", tokens);
  TreeRerankParams params = {};
  params.batch = arguments.size("tokens", tokens, 2, 0);
  params.candidates = arguments.size("tokens", tokens, 2, 1);
  params.nodes = arguments.nodes("node", arguments.size("node", node, 2, 1));
  const int64_t batch = params.batch, candidates = params.candidates, nodes = params.nodes;
  params.tokens = arguments.input<int64_t>("tokens", tokens, {batch, candidates});
  params.parents = arguments.input<int32_t>("parents", parents, {batch, candidates});
  params.score = arguments.input<float>("score", score, {batch, candidates});
  params.out_tokens = arguments.data<int64_t>("out_tokens", out_tokens, {batch, nodes});
  params.out_parents = arguments.data<int32_t>("out_parents", out_parents, {batch, nodes});
  params.node = arguments.data<int32_t>("node", node, {batch, nodes});
  run(params, tokens);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(tree_rerank)
