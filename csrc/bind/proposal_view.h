// The proposal tensors that proposal_reset, proposal_load and draft_step write.
#pragma once

#include "checks.h"

namespace tapout::bind {

// A mask is over target ids: a draft vocabulary says nothing about how many there are.
inline int64_t draft_mask_words(const OptionalTensor& token_mask, const OptionalTensor& d2t,
                                int64_t vocab) {
  const bool any = d2t && token_mask && token_mask->dim() > 0;
  return any ? token_mask->size(token_mask->dim() - 1) : mask_words(vocab);
}

inline ProposalView proposal_view(const Arguments& arguments,
                                  const Tensor& tokens,         // [B, K]
                                  const Tensor& length,         // [B]
                                  const Tensor& active,         // [B]
                                  const Tensor& num_active,     // [1]
                                  const Tensor& stats,          // [B, K, 8]
                                  const Tensor& stop_reason) {  // [B]
  const int64_t batch = arguments.size("tokens", tokens, 2, 0), slots = tokens.size(1);
  return {batch,
          slots,
          arguments.data<int64_t>("tokens", tokens, {batch, slots}),
          arguments.data<int32_t>("length", length, {batch}),
          arguments.data<bool>("active", active, {batch}),
          arguments.data<int32_t>("num_active", num_active, {1}),
          arguments.data<float>("stats", stats, {batch, slots, kStatsColumns}),
          arguments.data<int32_t>("stop_reason", stop_reason, {batch})};
}

}  // namespace tapout::bind
