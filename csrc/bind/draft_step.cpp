#include "backend.h"
#include "proposal_view.h"

namespace tapout::bind {

static void fill_kept_logits(const Arguments& arguments, const Tensor& kept,
                             const OptionalTensor& logits_row, DraftStepParams& params) {
  const int64_t batch = params.proposal.batch, slots = params.proposal.slots;
  const int64_t rows = arguments.size("kept_logits", kept, 3, 0);
  if (rows < 1) arguments.fail("kept_logits", "of at least one row", "none");
  params.kept_rows = logits_row ? rows : batch;
  const Logits view =
      arguments.logits("kept_logits", kept, {params.kept_rows, slots, params.logits.vocab});
  if (view.dtype != params.logits.dtype) {
    arguments.fail("kept_logits", "of the dtype of logits", "another dtype");
  }
  if (!kept.is_contiguous()) arguments.fail("kept_logits", "contiguous", "strided");
  params.logits_row = arguments.input<int32_t>("logits_row", logits_row, {batch});
  params.kept_logits = kept.mutable_data_ptr();
  params.kept_batch_stride = view.batch_stride;
  params.kept_row_stride = view.row_stride;
}

void draft_step(const Tensor& logits,  // [B, D]
                const OptionalTensor& temperature, const OptionalTensor& top_k,
                const OptionalTensor& top_p, const OptionalTensor& min_p,
                const OptionalTensor& token_mask,       // [B, words]
                const OptionalTensor& d2t,              // [D]
                const OptionalTensor& accept_estimate,  // [B]
                const Tensor& seed,                     // [R]
                const Tensor& position,                 // [R]
                const Tensor& round,                    // [B]
                const Tensor& max_length,               // [B]
                const OptionalTensor& rows,             // [B]
                const OptionalTensor& rule_kind, const OptionalTensor& rule_param,
                const OptionalTensor& arm, const OptionalTensor& memory, int64_t rule,
                const OptionalTensor& logits_row,  // [B]
                const Tensor& tokens, const Tensor& length, const Tensor& active,
                const Tensor& num_active,
                const OptionalTensor& kept_logits,  // [L, K, D]
                const Tensor& stats, const Tensor& stop_reason,
                const Tensor& next_token) {  // [B]
  const Arguments arguments("draft_step", logits);
  DraftStepParams params = {};
  params.proposal =
      proposal_view(arguments, tokens, length, active, num_active, stats, stop_reason);
  const int64_t batch = params.proposal.batch, slots = params.proposal.slots;
  params.rows = arguments.rows(rows, batch, arguments.size("seed", seed, 1, 0));
  const int64_t states = params.rows.count;
  const int64_t vocab = arguments.size("logits", logits, 2, 1);
  params.logits = arguments.logits("logits", logits, {batch, vocab});
  params.sampling = arguments.sampling(temperature, top_k, top_p, min_p, states);
  params.mask = arguments.mask(token_mask, {batch, draft_mask_words(token_mask, d2t, vocab)});
  params.d2t = arguments.input<int32_t>("d2t", d2t, {vocab});
  params.accept_estimate = arguments.input<float>("accept_estimate", accept_estimate, {batch});
  params.seed = arguments.input<int64_t>("seed", seed, {states});
  params.position = arguments.input<int64_t>("position", position, {states});
  params.round = arguments.input<int64_t>("round", round, {batch});
  params.max_length = arguments.input<int32_t>("max_length", max_length, {batch});
  params.rules = arguments.rules(rule_kind, rule_param, arm, memory, states, slots);
  params.rule = arguments.rule(rule);
  params.next_token = arguments.data<int64_t>("next_token", next_token, {batch});
  if (kept_logits) fill_kept_logits(arguments, *kept_logits, logits_row, params);
  run(params, logits);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(draft_step)
