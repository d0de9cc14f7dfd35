#include "backend.h"

namespace tapout::bind {
namespace {

// Rows of a ragged tensor belong to no batch row: the only stride is that of its rows.
template <class Rows>
Rows ragged(Rows rows) {
  rows.row_stride = rows.batch_stride;
  rows.batch_stride = 0;
  return rows;
}

void set_target(const Arguments& arguments, const Tensor& logits, const OptionalTensor& row_start,
                const OptionalTensor& mask, VerifyParams& params) {
  const int64_t batch = params.batch, per_request = params.slots + 1;
  if (!row_start) {
    const int64_t vocab = arguments.size("target_logits", logits, 3, 2);
    params.target = arguments.logits("target_logits", logits, {batch, per_request, vocab});
    params.mask = arguments.mask(mask, {batch, per_request, mask_words(vocab)});
    return;
  }
  const int64_t vocab = arguments.size("target_logits", logits, 2, 1);
  params.row_start = arguments.input<int32_t>("row_start", row_start, {batch + 1});
  params.target_rows = logits.size(0);
  params.target = ragged(arguments.logits("target_logits", logits, {params.target_rows, vocab}));
  params.mask = ragged(arguments.mask(mask, {params.target_rows, mask_words(vocab)}));
}

void set_draft(const Arguments& arguments, const OptionalTensor& logits,
               const OptionalTensor& logits_row, const OptionalTensor& t2d, VerifyParams& params) {
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
      arguments.logits("draft_logits", *logits, {params.draft_rows, params.slots, vocab});
}

// Of rule lossy_adasd alone, which needs it. Lossy rules have no kernel on a GPU.
void set_rule(const Arguments& arguments, int64_t rule, const OptionalTensor& memory,
              VerifyParams& params) {
#if defined(TAPOUT_FOR_CUDA) || defined(TAPOUT_EMULATED)
  if (rule > static_cast<int32_t>(Rule::kGreedy)) {
    arguments.fail("rule", "0 to 3 on a GPU", std::to_string(rule));
  }
#endif
  params.rule = arguments.verify_rule(rule);
  const bool remembers = params.rule == Rule::kLossyAdaSd;
  if (remembers && !memory) arguments.fail("lossy_memory", "given for rule lossy_adasd", "None");
  if (!remembers && memory) arguments.fail("lossy_memory", "None for this rule", "a Tensor");
  if (!memory) return;
  params.lossy_memory =
      arguments.data<double>("lossy_memory", *memory, {params.rows.count, kLossyMemory});
}

}  // namespace

void verify(const Tensor& target_logits,      // [B, K+1, V], or [n, V] with row_start
            const OptionalTensor& row_start,  // [B+1]
            const OptionalTensor& temperature, const OptionalTensor& top_k,
            const OptionalTensor& top_p, const OptionalTensor& min_p,
            const OptionalTensor& token_mask,    // rows like the target's, ceil(V/32) words each
            const Tensor& seed,                  // [R]
            const OptionalTensor& rows,          // [B]
            const Tensor& draft_tokens,          // [B, K]
            const Tensor& length,                // [B]
            const Tensor& live,                  // [B]
            const Tensor& round,                 // [B]
            const OptionalTensor& draft_logits,  // [L, K, D]
            const OptionalTensor& logits_row,    // [B]
            const OptionalTensor& t2d,           // [T]
            const Tensor& stats,                 // [B, K, 8]
            int64_t rule, bool raw_logprobs,
            const Tensor& position,                // [R]
            const Tensor& tokens,                  // [B, K+1]
            const Tensor& num_accepted,            // [B]
            const Tensor& num_emitted,             // [B]
            const Tensor& last_token,              // [B]
            const Tensor& status,                  // [B]
            const Tensor& accept_prob,             // [B, K]
            const OptionalTensor& overlap,         // [B, K]
            const OptionalTensor& logprobs,        // [B, K+1]
            const OptionalTensor& lossy_memory) {  // [R, 4]
  const Arguments arguments("verify", target_logits);
  VerifyParams params = {};
  params.batch = arguments.size("draft_tokens", draft_tokens, 2, 0);
  params.slots = draft_tokens.size(1);
  const int64_t batch = params.batch, slots = params.slots;
  params.rows = arguments.rows(rows, batch, arguments.size("seed", seed, 1, 0));
  const int64_t states = params.rows.count;
  set_target(arguments, target_logits, row_start, token_mask, params);
  params.sampling = arguments.sampling(temperature, top_k, top_p, min_p, states);
  params.seed = arguments.input<int64_t>("seed", seed, {states});
  params.draft_tokens = arguments.input<int64_t>("draft_tokens", draft_tokens, {batch, slots});
  params.length = arguments.input<int32_t>("length", length, {batch});
  params.live = arguments.input<bool>("live", live, {batch});
  params.round = arguments.input<int64_t>("round", round, {batch});
  set_draft(arguments, draft_logits, logits_row, t2d, params);
  params.stats = arguments.input<float>("stats", stats, {batch, slots, kStatsColumns});
  set_rule(arguments, rule, lossy_memory, params);
  params.raw_logprobs = raw_logprobs;
  params.position = arguments.data<int64_t>("position", position, {states});
  params.tokens = arguments.data<int64_t>("tokens", tokens, {batch, slots + 1});
  params.num_accepted = arguments.data<int32_t>("num_accepted", num_accepted, {batch});
  params.num_emitted = arguments.data<int32_t>("num_emitted", num_emitted, {batch});
  params.last_token = arguments.data<int64_t>("last_token", last_token, {batch});
  params.status = arguments.data<int32_t>("status", status, {batch});
  params.accept_prob = arguments.data<float>("accept_prob", accept_prob, {batch, slots});
  if (overlap) params.overlap = arguments.data<float>("overlap", *overlap, {batch, slots});
  if (logprobs) params.logprobs = arguments.data<float>("logprobs", *logprobs, {batch, slots + 1});
  run(params, target_logits);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(verify)
