#include "backend.h"
#include "proposal_view.h"

namespace tapout::bind {

// Logits that a mask is written into: no row is the row of another slot or request.
static void check_rows_distinct(const Arguments& arguments, const Tensor& logits) {
  for (int64_t dim = 0; dim < 2; ++dim) {
    if (logits.size(dim) > 1 && logits.stride(dim) == 0) {
      arguments.fail("logits", "of distinct rows where token_mask is given", "stride 0");
    }
  }
}

// The rows of per-request state: any tensor of that size tells them.
static StateRows state_rows(const Arguments& arguments, const OptionalTensor& rows, int64_t batch,
                            std::initializer_list<const OptionalTensor*> states) {
  for (const OptionalTensor* tensor : states) {
    if (*tensor && (*tensor)->dim() > 0) return arguments.rows(rows, batch, (*tensor)->size(0));
  }
  return arguments.rows(std::nullopt, batch, batch);  // nothing to point into
}

void proposal_load(const Tensor& source,                 // [B, N]
                   const OptionalTensor& source_length,  // [B]
                   const OptionalTensor& logits,         // [B, N, D]
                   const OptionalTensor& temperature, const OptionalTensor& top_k,
                   const OptionalTensor& top_p, const OptionalTensor& min_p,
                   const OptionalTensor& token_mask,  // [B, N, words]
                   const OptionalTensor& d2t,         // [D]
                   const OptionalTensor& t2d,         // [T]
                   const OptionalTensor& rows,        // [B]
                   const OptionalTensor& rule_kind, const OptionalTensor& rule_param,
                   const OptionalTensor& arm, const OptionalTensor& memory,
                   const Tensor& max_length,  // [B]
                   const Tensor& tokens, const Tensor& length, const Tensor& active,
                   const Tensor& num_active, const Tensor& stats, const Tensor& stop_reason) {
  const Arguments arguments("proposal_load", tokens);
  ProposalLoadParams params = {};
  params.proposal =
      proposal_view(arguments, tokens, length, active, num_active, stats, stop_reason);
  const int64_t batch = params.proposal.batch, slots = params.proposal.slots;
  params.rows = state_rows(arguments, rows, batch, {&temperature, &top_k, &top_p, &min_p, &arm});
  const int64_t states = params.rows.count;
  params.columns = arguments.size("source", source, 2, 1);
  const int64_t columns = params.columns;
  params.source = arguments.input<int64_t>("source", source, {batch, columns});
  params.source_length = arguments.input<int32_t>("source_length", source_length, {batch});
  params.logits.vocab = 1;
  if (logits) {
    const int64_t vocab = arguments.size("logits", *logits, 3, 2);
    params.logits = arguments.logits("logits", *logits, {batch, columns, vocab});
    const int64_t words = draft_mask_words(token_mask, d2t, vocab);
    params.mask = arguments.mask(token_mask, {batch, columns, words});
    if (token_mask) check_rows_distinct(arguments, *logits);
    params.d2t = arguments.input<int32_t>("d2t", d2t, {vocab});
  }
  if (t2d) {
    params.target_ids = arguments.size("t2d", *t2d, 1, 0);
    params.t2d = arguments.input<int32_t>("t2d", t2d, {params.target_ids});
  }
  params.sampling = arguments.sampling(temperature, top_k, top_p, min_p, states);
  params.rules = arguments.rules(rule_kind, rule_param, arm, memory, states, slots);
  params.max_length = arguments.input<int32_t>("max_length", max_length, {batch});
  run(params, tokens);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(proposal_load)
