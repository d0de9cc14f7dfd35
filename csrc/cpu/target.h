// One request of verify as its rules see it: drafts, target rows, noise, and what is emitted.
#pragma once

#include "../core/rng.h"
#include "../core/rows.h"
#include "draw.h"
#include "gumbel.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Request {
  const VerifyParams& params;
  int64_t b;      // row of the batch
  int64_t state;  // row of seed, position and sampling
  int64_t kept;   // row of the kept draft logits, -1 if there is none
  int64_t length;
  RowSampling sampling;
};

inline Request request_at(const VerifyParams& params, int64_t b, int64_t state) {
  const int64_t length = params.length[b], kept = params.logits_row ? params.logits_row[b] : b;
  return {params,
          b,
          state,
          kept >= 0 && kept < params.draft_rows ? kept : -1,
          length < 0              ? 0
          : length > params.slots ? params.slots
                                  : length,
          row_sampling(params.sampling, state, params.rule, params.target.vocab)};
}

inline double noise(const Request& request, int64_t slot, Domain domain) {
  const VerifyParams& params = request.params;
  return uniform_at(params.seed[request.state], 0, slot, params.round[request.b], domain);
}

// ---- drafts -------------------------------------------------------------------------------------

struct Draft {
  int64_t token;
  double p_draft;  // of the token; 0 where the kept row or the draft vocabulary lacks it
  bool one_hot;    // p_draft has all its mass on the token
  bool bad;        // cannot have been drawn: the draft ends before it
  bool foreign;    // drawn, but no id of the target: p_target = 0, so it is rejected
};

inline const float* draft_stats(const Request& request, int64_t slot) {
  return request.params.stats + (request.b * request.params.slots + slot) * kStatsColumns;
}

inline Draft draft_at(const Request& request, int64_t slot) {
  const VerifyParams& params = request.params;
  const float* stats = draft_stats(request, slot);
  const int64_t token = params.draft_tokens[request.b * params.slots + slot];
  const bool inside = token >= 0 && token < params.target.vocab;
  if (params.rule == Rule::kGreedy || !params.draft.data) {
    return {token, 1.0, true, !inside, false};
  }
  const bool known =
      request.kept >= 0 && draft_id(params.t2d, params.target_ids, params.draft.vocab, token) >= 0;
  const double p_draft = known ? draft_probability(stats) : 0.0;
  const bool one_hot = stats[kTemperature] == 0.0f;
  if (params.rule == Rule::kGumbel) return {token, p_draft, one_hot, !inside, false};
  return {token, p_draft, one_hot, !(p_draft > 0.0), !inside && p_draft > 0.0};
}

inline double draft_target_probability(const RowLaw& law, const Draft& draft) {
  return draft.foreign ? 0.0 : law_probability(law, draft.token);
}

// The kept row of a draft that is not one-hot and of p_draft > 0.
inline DraftRow draft_row(const Request& request, int64_t slot, int64_t token) {
  const VerifyParams& params = request.params;
  const float* stats = draft_stats(request, slot);
  const Row row = row_at(params.draft, TokenMask{}, nullptr, request.kept, slot);
  const int64_t id = draft_id(params.t2d, params.target_ids, params.draft.vocab, token);
  return {row,
          params.t2d,
          params.target_ids,
          logit_at(row, id),
          stats[kTokenLogprob],
          stats[kCutoff],
          static_cast<float>(inverse_temperature(stats[kTemperature]))};
}

// ---- target rows --------------------------------------------------------------------------------

// Data null: the ragged layout gives the request no row i.
inline Row target_row(const Request& request, int64_t i) {
  const VerifyParams& params = request.params;
  if (!params.row_start) return row_at(params.target, params.mask, nullptr, request.b, i);
  const int64_t begin = params.row_start[request.b], end = params.row_start[request.b + 1];
  const int64_t row = begin + i;
  if (row < 0 || row >= end || row >= params.target_rows) return Row{};
  return row_at(params.target, params.mask, nullptr, 0, row);
}

inline RowLaw target_law(const Request& request, int64_t i, const Team& team) {
  const Row row = target_row(request, i);
  if (row.data) return row_law(row, request.sampling, false, team);
  RowLaw law = {};
  law.status = Status::kEmpty;
  return law;
}

// The token of row i where no draft stands in the way.
inline int64_t target_token(const Request& request, int64_t i, RowLaw& law, const Team& team) {
  const Rule rule = request.params.rule;
  if (rule == Rule::kLossyFly || rule == Rule::kLossyAdaSd) return law_argmax(law);
  if (rule != Rule::kGumbel) return draw(law, noise(request, i, Domain::kResidual));
  const int64_t position = offset_position(request.params.position[request.state], i);
  return draw_gumbel(law, request.params.seed[request.state], position, team);
}

// ---- rejections ---------------------------------------------------------------------------------

// sum [weight p_target - p_draft]+ of row i, prepared for `replacement`.
inline double rejected_mass(const Request& request, int64_t i, const RowLaw& law, double weight,
                            const Team& team) {
  const Draft draft = draft_at(request, i);
  if (draft.one_hot) return one_hot_residual(weight, draft_target_probability(law, draft));
  return residual_mass(law, draft_row(request, i, draft.token), weight, team);
}

// Call after `rejected_mass`: the token emitted in place of draft i.
inline int64_t replacement(const Request& request, int64_t i, RowLaw& law, double weight) {
  const double uniform = noise(request, i, Domain::kResidual);
  const Draft draft = draft_at(request, i);
  if (draft.one_hot) {
    return draft.foreign ? draw(law, uniform) : draw_without(law, draft.token, uniform);
  }
  return draw_residual(law, draft_row(request, i, draft.token), weight, uniform);
}

// ---- outputs ------------------------------------------------------------------------------------

inline void write_overlap(const Request& request, int64_t i, const RowLaw& law, const Team& team) {
  const VerifyParams& params = request.params;
  if (!params.overlap) return;
  const Draft draft = draft_at(request, i);
  double overlap = 0.0;
  if (draft.one_hot) {
    overlap = draft_target_probability(law, draft);
  } else if (draft.p_draft > 0.0) {
    overlap = overlap_mass(law, draft_row(request, i, draft.token), team);
  }
  params.overlap[request.b * params.slots + i] = static_cast<float>(overlap);
}

// log_softmax of the row as it came. Overwrites the scratch of `law`.
inline double raw_log_probability(RowLaw law, int64_t token, const Team& team) {
  if (law.row.mask || law.one_hot || law.temperature != 1.0) {
    law.row.mask = nullptr;
    law = row_law(law.row, RowSampling{true, false, 1.0, 0, 1.0, 0.0}, false, team);
    if (law.status != Status::kOk) return NAN;
  }
  law.cutoff = -INFINITY;
  law.kept = law.moments.sum;
  return law_log_probability(law, token);
}

// `law` is that of row i, in the scratch of `team`; done with afterwards.
inline void emit(const Request& request, int64_t i, int64_t token, const RowLaw& law,
                 const Team& team) {
  const VerifyParams& params = request.params;
  const int64_t at = request.b * (params.slots + 1) + i;
  params.tokens[at] = params.last_token[request.b] = token;
  params.num_emitted[request.b] += 1;
  if (!params.logprobs) return;
  params.logprobs[at] =
      static_cast<float>(params.raw_logprobs ? raw_log_probability(law, token, team)
                                             : law_log_probability(law, token));
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
