#include "backend.h"

namespace tapout::bind {
namespace {

void set_draft(const Arguments& arguments, const OptionalTensor& logits,
               const OptionalTensor& logits_row, const OptionalTensor& t2d,
               TreeVerifyParams& params) {
  params.logits_row = arguments.input<int32_t>("logits_row", logits_row, {params.batch});
  if (t2d) {
    params.target_ids = arguments.size("t2d", *t2d, 1, 0);
    params.t2d = arguments.input<int32_t>("t2d", t2d, {params.target_ids});
  }
  if (!logits) return;
  const int64_t rows = arguments.size("draft_logits", *logits, 3, 0);
  if (rows < 1) arguments.fail("draft_logits", "of at least one row", "none");
  params.draft_rows = logits_row ? rows : params.batch;
  const int64_t vocab = t2d ? logits->size(2) : params.target.vocab;
  params.draft =
      arguments.logits("draft_logits", *logits, {params.draft_rows, params.nodes + 1, vocab});
}

}  // namespace

void tree_verify(const Tensor& target_logits,  // [B, N+1, V]
                 const OptionalTensor& temperature, const OptionalTensor& top_k,
                 const OptionalTensor& top_p, const OptionalTensor& min_p,
                 const OptionalTensor& token_mask,    // [B, N+1, ceil(V/32)]
                 const Tensor& seed,                  // [R]
                 const OptionalTensor& rows,          // [B]
                 const Tensor& draft_tokens,          // [B, N]
                 const Tensor& first_child,           // [B, N+1]
                 const Tensor& next_sibling,          // [B, N]
                 const Tensor& valid,                 // [B]
                 const Tensor& live,                  // [B]
                 const Tensor& round,                 // [B]
                 const OptionalTensor& draft_logits,  // [L, N+1, D]
                 const OptionalTensor& logits_row,    // [B]
                 const OptionalTensor& t2d,           // [T]
                 const Tensor& stats,                 // [B, N+1, 8]
                 int64_t rule,
                 const Tensor& position,      // [R]
                 const Tensor& tokens,        // [B, N+1]
                 const Tensor& path,          // [B, N]
                 const Tensor& num_accepted,  // [B]
                 const Tensor& num_emitted,   // [B]
                 const Tensor& last_token,    // [B]
                 const Tensor& status) {      // [B]
  const Arguments arguments("tree_verify", target_logits);
  TreeVerifyParams params = {};
  params.batch = arguments.size("draft_tokens", draft_tokens, 2, 0);
  params.nodes = arguments.nodes("draft_tokens", draft_tokens.size(1));
  const int64_t batch = params.batch, nodes = params.nodes;
  params.rows = arguments.rows(rows, batch, arguments.size("seed", seed, 1, 0));
  const int64_t states = params.rows.count;
  const int64_t vocab = arguments.size("target_logits", target_logits, 3, 2);
  params.target = arguments.logits("target_logits", target_logits, {batch, nodes + 1, vocab});
  params.mask = arguments.mask(token_mask, {batch, nodes + 1, mask_words(vocab)});
  params.sampling = arguments.sampling(temperature, top_k, top_p, min_p, states);
  params.seed = arguments.input<int64_t>("seed", seed, {states});
  params.draft_tokens = arguments.input<int64_t>("draft_tokens", draft_tokens, {batch, nodes});
  params.first_child = arguments.input<int32_t>("first_child", first_child, {batch, nodes + 1});
  params.next_sibling = arguments.input<int32_t>("next_sibling", next_sibling, {batch, nodes});
  params.valid = arguments.input<bool>("valid", valid, {batch});
  params.live = arguments.input<bool>("live", live, {batch});
  params.round = arguments.input<int64_t>("round", round, {batch});
  set_draft(arguments, draft_logits, logits_row, t2d, params);
  params.stats = arguments.input<float>("stats", stats, {batch, nodes + 1, kStatsColumns});
  params.rule = arguments.rule(rule);
#if defined(TAPOUT_FOR_CUDA) || defined(TAPOUT_EMULATED)
  if (params.rule == Rule::kBlock) arguments.fail("rule", "0, 2 or 3 on a GPU", "1");
#endif
  params.position = arguments.data<int64_t>("position", position, {states});
  params.tokens = arguments.data<int64_t>("tokens", tokens, {batch, nodes + 1});
  params.path = arguments.data<int32_t>("path", path, {batch, nodes});
  params.num_accepted = arguments.data<int32_t>("num_accepted", num_accepted, {batch});
  params.num_emitted = arguments.data<int32_t>("num_emitted", num_emitted, {batch});
  params.last_token = arguments.data<int64_t>("last_token", last_token, {batch});
  params.status = arguments.data<int32_t>("status", status, {batch});
  run(params, target_logits);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(tree_verify)
