// The draft's side of a verification: which distribution every drafted token was drawn from.
#pragma once

#include "../core/accept.h"
#include "../core/rows.h"
#include "row.cuh"

namespace tapout::cuda {

// One drafted token.
struct Draft {
  int64_t token;
  double p_draft;  // 0 where the kept row or the draft vocabulary lacks the token
  bool one_hot;    // p_draft has all its mass on the token
  bool bad;        // cannot have been drawn: the draft ends before it
  bool foreign;    // drawn, but no id of the target: p_target = 0, so it is rejected
};

// `Params`: VerifyParams or TreeVerifyParams. -1 where the proposal keeps no logits of the request.
template <class Params>
__device__ inline int64_t kept_row(const Params& params, int64_t b) {
  const int64_t row = params.logits_row ? params.logits_row[b] : b;
  return row >= 0 && row < params.draft_rows ? row : -1;
}

// -1 for a target id that the draft vocabulary lacks.
template <class Params>
__device__ inline int32_t draft_id(const Params& params, int64_t id) {
  if (id < 0) return -1;
  if (params.t2d) id = id < params.target_ids ? params.t2d[id] : -1;
  return id < params.draft.vocab ? static_cast<int32_t>(id) : -1;
}

__device__ inline const float* draft_stats(const VerifyParams& params, int64_t b, int64_t slot) {
  return params.stats + (b * params.slots + slot) * kStatsColumns;
}

__device__ inline Draft draft_at(const VerifyParams& params, int64_t b, int64_t slot) {
  const int64_t token = params.draft_tokens[b * params.slots + slot];
  const bool inside = token >= 0 && token < params.target.vocab;
  if (!params.draft.data) return {token, 1.0, true, !inside, false};
  const float* stats = draft_stats(params, b, slot);
  const bool known = kept_row(params, b) >= 0 && draft_id(params, token) >= 0;
  const double p_draft = known ? draft_probability(stats) : 0.0;
  const bool one_hot = stats[kTemperature] == 0.0f;
  if (params.rule == Rule::kGumbel) return {token, p_draft, one_hot, !inside, false};
  return {token, p_draft, one_hot, !(p_draft > 0.0), !inside && p_draft > 0.0};
}

// p_draft relative to the drafted token's own logit, so that it is the distribution the token was
// drawn from: p_draft(z) = 2^(level + (z - token_logit) rate) where z >= cutoff.
struct DraftScale {
  float token_logit;
  float level;
  float rate;
  float cutoff;
};

// A kept row.
struct DraftRow {
  const void* logits;
  DType dtype;
  int32_t vocab;
  const int32_t* t2d;  // null: the ids are the target's
  int64_t target_ids;
  DraftScale scale;
};

template <class D>
__device__ inline float stored_logit(const void* logits, int32_t id) {
  return to_f32(static_cast<const D*>(logits)[id]);
}

__device__ inline float stored_logit(const DraftRow& draft, int32_t id) {
  switch (draft.dtype) {
    case DType::kBf16: return stored_logit<Bf16>(draft.logits, id);
    case DType::kF16: return stored_logit<F16>(draft.logits, id);
    default: return stored_logit<float>(draft.logits, id);
  }
}

// Of a slot whose request has a kept row.
template <class Params>
__device__ inline DraftRow draft_row(const Params& params, int64_t b, int64_t slot,
                                     const DraftScale& scale) {
  const Logits& kept = params.draft;
  const int64_t offset = kept_row(params, b) * kept.batch_stride + slot * kept.row_stride;
  const int64_t bytes = kept.dtype == DType::kF32 ? 4 : 2;
  return {static_cast<const char*>(kept.data) + offset * bytes,
          kept.dtype,
          static_cast<int32_t>(kept.vocab),
          params.t2d,
          params.target_ids,
          scale};
}

// Of a token with p_draft > 0 in a row that is not one-hot, of these statistics.
template <class Params>
__device__ inline DraftScale draft_scale(const Params& params, const float* stats, int64_t b,
                                         int64_t slot, int64_t token) {
  const DraftRow row = draft_row(params, b, slot, DraftScale{});
  return {stored_logit(row, draft_id(params, token)),
          static_cast<float>(stats[kTokenLogprob] * kLog2E),
          exponent_rate(inverse_temperature(stats[kTemperature])), stats[kCutoff]};
}

// -1 for a target id >= 0 that the draft vocabulary lacks.
__device__ inline int32_t draft_column(const DraftRow& draft, int32_t id) {
  if (draft.t2d) id = id < draft.target_ids ? draft.t2d[id] : -1;
  return id < draft.vocab ? id : -1;
}

// -inf where the draft has no such id.
__device__ inline float draft_logit(const DraftRow& draft, int32_t id) {
  const int32_t column = draft_column(draft, id);
  return column >= 0 ? stored_logit(draft, column) : -INFINITY;
}

__device__ inline float draft_weight(const DraftScale& scale, float logit) {
  const float exponent = fmaf(logit - scale.token_logit, scale.rate, scale.level);
  const bool kept = logit >= scale.cutoff && logit > -INFINITY;
  return kept ? exp2_approx(fminf(exponent, 0.0f)) : 0.0f;
}

// p_draft of an id >= 0 in a kept row of these statistics, in f64: where it decides.
__device__ inline double draft_probability_of(const DraftRow& draft, const float* stats,
                                              int32_t id) {
  const float logit = draft_logit(draft, id);
  if (!(logit >= draft.scale.cutoff) || logit == -INFINITY) return 0.0;
  const double offset = static_cast<double>(logit) - draft.scale.token_logit;
  const double log_p = stats[kTokenLogprob] + offset * inverse_temperature(stats[kTemperature]);
  return log_p < 0.0 ? exp(log_p) : 1.0;
}

}  // namespace tapout::cuda
