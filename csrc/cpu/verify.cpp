// verify: accept drafts, emit one more token, advance positions (core/accept.h). token, gumbel and
// greedy and lossy rules read a request's rows in order and only up to the deciding one, unless an
// output asks for the rest; requests are spread over the workers.
#include "block.h"
#include "lossy.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// What row i of a request decides.
struct Decision {
  bool accepted;
  int64_t emitted;
  Status status;
  double accept_prob;  // -1: not decided
};

static Decision accept_token(const Request& request, int64_t i, const Draft& draft, RowLaw& law,
                             const Team& team) {
  const double p_target = draft_target_probability(law, draft);
  const double ratio = accept_probability(p_target, draft.p_draft);
  if (accepts(noise(request, i, Domain::kAccept), p_target, draft.p_draft)) {
    return {true, draft.token, Status::kOk, ratio};
  }
  rejected_mass(request, i, law, 1.0, team);
  const Status status = draft.foreign ? Status::kBadDraft : Status::kOk;
  return {false, replacement(request, i, law, 1.0), status, ratio};
}

// gumbel and greedy: a draft is accepted while it is what the target itself would emit.
static Decision accept_equal(const Request& request, int64_t i, const Draft& draft, RowLaw& law,
                             const Team& team) {
  const int64_t token = target_token(request, i, law, team);
  const bool equal = token == draft.token;
  return {equal, token, Status::kOk, equal ? 1.0 : 0.0};
}

static Decision accept_lossy(const Request& request, int64_t i, const Draft& draft, RowLaw& law,
                             LossyRound& round, const Team& team) {
  const Judgement judged = judge_lossily(request, i, draft, law, round, team);
  if (judged.accepted) return {true, draft.token, Status::kOk, judged.accept_prob};
  const Status status = draft.foreign ? Status::kBadDraft : Status::kOk;
  return {false, lossy_replacement(request, i, law, team), status, judged.accept_prob};
}

static Decision decide(const Request& request, int64_t i, RowLaw& law, LossyRound& round,
                       const Team& team) {
  if (i == request.length) return {false, target_token(request, i, law, team), Status::kOk, -1.0};
  const Draft draft = draft_at(request, i);
  if (draft.bad) {
    return {false, target_token(request, i, law, team), Status::kBadDraft, -1.0};
  }
  const Rule rule = request.params.rule;
  if (rule >= Rule::kLossyTypical) return accept_lossy(request, i, draft, law, round, team);
  return rule == Rule::kToken ? accept_token(request, i, draft, law, team)
                              : accept_equal(request, i, draft, law, team);
}

// Rows after the deciding one say nothing but their overlap.
static void write_later_overlaps(const Request& request, int64_t i, const Team& team) {
  for (; i < request.length; ++i) {
    const RowLaw law = target_law(request, i, team);
    const Draft draft = draft_at(request, i);
    if (law.status != Status::kOk || draft.bad) return;
    write_overlap(request, i, law, team);
    if (draft.foreign) return;
  }
}

static Status verify_in_order(const Request& request, LossyRound& round, const Team& team) {
  const VerifyParams& params = request.params;
  for (int64_t i = 0;; ++i) {
    RowLaw law = target_law(request, i, team);
    if (law.status != Status::kOk) return law.status;
    const Decision decision = decide(request, i, law, round, team);
    const bool drafted = decision.accept_prob >= 0.0;
    if (drafted) {
      params.accept_prob[request.b * params.slots + i] = static_cast<float>(decision.accept_prob);
      write_overlap(request, i, law, team);
    }
    emit(request, i, decision.emitted, law, team);
    params.num_accepted[request.b] += decision.accepted;
    if (decision.accepted) continue;
    const bool later = drafted && decision.status == Status::kOk && params.overlap;
    if (later) write_later_overlaps(request, i + 1, team);
    return decision.status;
  }
}

static void clear_row(const VerifyParams& params, int64_t b) {
  for (int64_t i = 0; i <= params.slots; ++i) {
    params.tokens[b * (params.slots + 1) + i] = -1;
    if (params.logprobs) params.logprobs[b * (params.slots + 1) + i] = 0.0f;
  }
  for (int64_t i = 0; i < params.slots; ++i) {
    params.accept_prob[b * params.slots + i] = -1.0f;
    if (params.overlap) params.overlap[b * params.slots + i] = -1.0f;
  }
  params.num_accepted[b] = params.num_emitted[b] = 0;
  params.last_token[b] = 0;
  params.status[b] = static_cast<int32_t>(Status::kOk);
}

static void verify_request(const VerifyParams& params, int64_t b, int64_t state, const Team& team) {
  const Request request = request_at(params, b, state);
  const Levels levels = {team, level_bytes(scratch_bytes(params.target.vocab))};
  LossyRound round = lossy_round(params, state);
  const Status status = params.rule == Rule::kBlock ? verify_block(request, levels)
                                                    : verify_in_order(request, round, team);
  params.status[b] = static_cast<int32_t>(status);
  remember(round);
  params.position[state] = offset_position(params.position[state], params.num_emitted[b]);
}

int64_t verify_scratch_bytes(int64_t vocab, int64_t slots, Rule rule) {
  const int64_t row = scratch_bytes(vocab);
  if (rule == Rule::kLossyFly) return 2 * row;  // one to look ahead with
  return rule == Rule::kBlock ? (slots + 1) * level_bytes(row) : row;
}

void verify(const VerifyParams& params, const Team& team) {
  for_each_row(team, params.batch, [&](const Team& crew, int64_t b) {
    const int64_t state = state_row(params.rows, b);
    clear_row(params, b);
    if (params.live[b] && state >= 0) verify_request(params, b, state, crew);
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
