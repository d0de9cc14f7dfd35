#include "backend.h"

namespace tapout::bind {
namespace {

constexpr int64_t kMostCandidates = 1 << 20;

struct Next {
  const OptionalTensor& node;
  const OptionalTensor& beam;
  const OptionalTensor& row;
  const OptionalTensor& token;
};

void set_next(const Arguments& arguments, const Next& next, TreeExpandParams& params) {
  if (!next.beam) return;
  if (!next.row) arguments.fail("next_row", "given with next_beam", "None");
  if (!next.token) arguments.fail("next_token", "given with next_beam", "None");
  const int64_t batch = params.batch, rows = arguments.size("next_beam", *next.beam, 2, 1);
  params.next_rows = rows;
  params.next_beam = arguments.data<int32_t>("next_beam", *next.beam, {batch, rows});
  params.next_row = arguments.data<int32_t>("next_row", *next.row, {batch, rows});
  params.next_token = arguments.data<int64_t>("next_token", *next.token, {batch, rows});
  params.next_node = arguments.input<int32_t>("next_node", next.node, {rows});
}

void set_kept(const Arguments& arguments, const OptionalTensor& logits, const OptionalTensor& stats,
              ScalarType dtype, TreeExpandParams& params) {
  const int64_t batch = params.batch, rows = params.nodes + 1;
  if (stats) params.stats = arguments.data<float>("stats", *stats, {batch, rows, kStatsColumns});
  if (!logits) return;
  if (logits->scalar_type() != dtype) {
    arguments.fail("kept_logits", "of the dtype of logits", "another");
  }
  arguments.logits("kept_logits", *logits, {batch, rows, params.logits.vocab});
  if (!logits->is_contiguous()) arguments.fail("kept_logits", "contiguous", "other strides");
  params.kept_logits = logits->mutable_data_ptr();
}

}  // namespace

void tree_expand(const Tensor& logits,  // [B, W, D]
                 const OptionalTensor& temperature, const OptionalTensor& top_k,
                 const OptionalTensor& top_p, const OptionalTensor& min_p,
                 const OptionalTensor& token_mask,  // [B, W, ceil(V/32)]
                 const OptionalTensor& d2t,         // [D]
                 const Tensor& seed,                // [R]
                 const OptionalTensor& rows,        // [B]
                 const Tensor& round,               // [B]
                 const Tensor& beam,                // [B, W]
                 const Tensor& child_start,         // [W+1]
                 const OptionalTensor& next_node,   // [n]
                 const OptionalTensor& threshold,   // [B]
                 int64_t children, bool drawn,
                 const Tensor& active,                // [B]
                 const Tensor& depth,                 // [B]
                 const Tensor& tokens,                // [B, N]
                 const Tensor& parents,               // [B, N]
                 const Tensor& score,                 // [B, N]
                 const OptionalTensor& kept_logits,   // [B, N+1, D]
                 const OptionalTensor& stats,         // [B, N+1, 8]
                 const OptionalTensor& next_beam,     // [B, n]
                 const OptionalTensor& next_row,      // [B, n]
                 const OptionalTensor& next_token) {  // [B, n]
  const Arguments arguments("tree_expand", logits);
  TreeExpandParams params = {};
  params.batch = arguments.size("tokens", tokens, 2, 0);
  params.nodes = arguments.size("tokens", tokens, 2, 1);
  if (params.nodes < 1 || params.nodes > kMostCandidates) {
    arguments.fail("tokens", "of 1 to 1048576 nodes", std::to_string(params.nodes));
  }
  params.beam_rows = arguments.size("beam", beam, 2, 1);
  const int64_t batch = params.batch, nodes = params.nodes, width = params.beam_rows;
  params.children = arguments.nodes("children", children);
  params.drawn = drawn;
  params.rows = arguments.rows(rows, batch, arguments.size("seed", seed, 1, 0));
  const int64_t states = params.rows.count;
  const int64_t vocab = arguments.size("logits", logits, 3, 2);
  params.logits = arguments.logits("logits", logits, {batch, width, vocab});
  params.sampling = arguments.sampling(temperature, top_k, top_p, min_p, states);
  if (token_mask) {
    const int64_t words = arguments.size("token_mask", *token_mask, 3, 2);
    params.mask = arguments.mask(token_mask, {batch, width, d2t ? words : mask_words(vocab)});
  }
  params.d2t = arguments.input<int32_t>("d2t", d2t, {vocab});
  params.seed = arguments.input<int64_t>("seed", seed, {states});
  params.round = arguments.input<int64_t>("round", round, {batch});
  params.beam = arguments.input<int32_t>("beam", beam, {batch, width});
  params.child_start = arguments.input<int32_t>("child_start", child_start, {width + 1});
  params.threshold = arguments.input<float>("threshold", threshold, {batch});
  params.active = arguments.data<bool>("active", active, {batch});
  params.depth = arguments.data<int32_t>("depth", depth, {batch});
  params.tokens = arguments.data<int64_t>("tokens", tokens, {batch, nodes});
  params.parents = arguments.data<int32_t>("parents", parents, {batch, nodes});
  params.score = arguments.data<float>("score", score, {batch, nodes});
  set_kept(arguments, kept_logits, stats, logits.scalar_type(), params);
  set_next(arguments, {next_node, next_beam, next_row, next_token}, params);
  run(params, logits);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(tree_expand)
