// verify: accept drafts, emit one more token, advance positions (core/accept.h). A request's rows
// are read in order and only up to the deciding one; requests are spread over the workers.
#include "../core/accept.h"
#include "../core/rng.h"
#include "draw.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// What row i of a request decides.
struct Decision {
  bool accepted;
  int64_t emitted;  // the token that ends the request here, -1 if none
  Status status;
  float accept_prob;  // -1: not decided
};

static Decision ends(int64_t emitted, Status status, double accept_prob) {
  return {false, emitted, status, static_cast<float>(accept_prob)};
}

static double noise(const VerifyParams& params, int64_t b, int64_t slot, Domain domain) {
  return uniform_at(params.seed[b], 0, slot, params.round[b], domain);
}

static const float* draft_stats(const VerifyParams& params, int64_t b, int64_t slot) {
  return params.stats + (b * params.slots + slot) * kStatsColumns;
}

static int64_t replacement(const VerifyParams& params, int64_t b, int64_t slot, int64_t token,
                           RowLaw& law, const Team& team) {
  const double uniform = noise(params, b, slot, Domain::kResidual);
  const float* stats = draft_stats(params, b, slot);
  if (params.rule == Rule::kGreedy || !params.draft.data || stats[kTemperature] == 0.0f) {
    return draw_without(law, token, uniform);
  }
  const DraftRow draft = draft_row(row_at(params.draft, b, slot), token, stats);
  return draw_residual(law, draft, uniform, team);
}

static Decision decide_draft(const VerifyParams& params, int64_t b, int64_t slot, RowLaw& law,
                             const Team& team) {
  const int64_t token = params.draft_tokens[b * params.slots + slot];
  const bool certain = params.rule == Rule::kGreedy || !params.draft.data;
  const double p_draft = certain ? 1.0 : draft_probability(draft_stats(params, b, slot));
  if (token < 0 || token >= law.row.vocab || !(p_draft > 0.0)) {
    const double uniform = noise(params, b, slot, Domain::kResidual);
    return ends(draw(law, uniform), Status::kBadDraft, -1.0);
  }
  const double p_target = law_probability(law, token);
  const double ratio = accept_probability(p_target, p_draft);
  if (accepts(noise(params, b, slot, Domain::kAccept), p_target, p_draft)) {
    return {true, token, Status::kOk, static_cast<float>(ratio)};
  }
  return ends(replacement(params, b, slot, token, law, team), Status::kOk, ratio);
}

static Decision decide(const VerifyParams& params, int64_t b, int64_t slot, int64_t length,
                       const Team& team) {
  const RowSampling sampling = row_sampling(params.sampling, b, params.rule, params.target.vocab);
  RowLaw law = row_law(row_at(params.target, b, slot), sampling, false, team);
  if (law.status != Status::kOk) return ends(-1, law.status, -1.0);
  if (slot < length) return decide_draft(params, b, slot, law, team);
  return ends(draw(law, noise(params, b, slot, Domain::kResidual)), Status::kOk, -1.0);
}

static void clear_row(const VerifyParams& params, int64_t b) {
  for (int64_t i = 0; i <= params.slots; ++i) params.tokens[b * (params.slots + 1) + i] = -1;
  for (int64_t i = 0; i < params.slots; ++i) params.accept_prob[b * params.slots + i] = -1.0f;
  params.num_accepted[b] = params.num_emitted[b] = 0;
  params.last_token[b] = 0;
  params.status[b] = static_cast<int32_t>(Status::kOk);
}

static void verify_request(const VerifyParams& params, int64_t b, const Team& team) {
  int64_t length = params.length[b];
  length = length < 0 ? 0 : length > params.slots ? params.slots : length;
  int64_t* tokens = params.tokens + b * (params.slots + 1);
  Decision decision = {true, -1, Status::kOk, -1.0f};
  for (int64_t i = 0; decision.accepted; ++i) {
    decision = decide(params, b, i, length, team);
    if (i < params.slots) params.accept_prob[b * params.slots + i] = decision.accept_prob;
    if (decision.emitted < 0) break;
    tokens[i] = params.last_token[b] = decision.emitted;
    params.num_accepted[b] += decision.accepted;
    params.num_emitted[b] += 1;
  }
  params.status[b] = static_cast<int32_t>(decision.status);
  params.position[b] += params.num_emitted[b];
}

void verify(const VerifyParams& params, const Team& team) {
  for_each_row(team, params.batch, [&](const Team& crew, int64_t b) {
    clear_row(params, b);
    if (params.live[b]) verify_request(params, b, crew);
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
