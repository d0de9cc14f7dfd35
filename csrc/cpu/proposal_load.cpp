// proposal_load: take over drafts made elsewhere, cut where the arm would have stopped.
#include "../core/stop.h"
#include "law.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static int64_t offered(const ProposalLoadParams& params, int64_t b) {
  if (params.source_length) {
    const int64_t n = params.source_length[b];
    return n < 0 ? 0 : n > params.columns ? params.columns : n;
  }
  int64_t n = 0;
  while (n < params.columns && params.source[b * params.columns + n] >= 0) ++n;
  return n;
}

// Statistics of slot j; false if its row of logits has no distribution.
static bool load_stats(const ProposalLoadParams& params, int64_t b, int64_t j, int64_t token,
                       const Team& team, float* stats) {
  if (!params.logits.data) {
    for (int i = 0; i < kStatsColumns; ++i) stats[i] = i == kTop1Prob ? 1.0f : 0.0f;
    return true;
  }
  const RowSampling sampling = row_sampling(params.sampling, b, Rule::kToken, params.logits.vocab);
  const RowLaw law = row_law(row_at(params.logits, b, j), sampling, true, team);
  if (law.status != Status::kOk) return false;
  write_stats(law, law_log_probability(law, token), stats);
  return true;
}

static void load_row(const ProposalLoadParams& params, int64_t b, const Team& team) {
  const ProposalView& proposal = params.proposal;
  const int64_t slots = proposal.slots, available = offered(params, b);
  int64_t limit = params.max_length[b];
  limit = limit > slots ? slots : limit;
  StopReason reason = StopReason::kNone;
  for (int64_t j = 0; reason == StopReason::kNone && j < available && j < limit; ++j) {
    const int64_t token = params.source[b * params.columns + j];
    float* stats = proposal.stats + (b * slots + j) * kStatsColumns;
    if (!load_stats(params, b, j, token, team, stats)) {
      reason = StopReason::kBadLogits;
      break;
    }
    proposal.tokens[b * slots + j] = token;
    proposal.length[b] = static_cast<int32_t>(j + 1);
    if (j + 1 >= limit) reason = StopReason::kMaxLength;
    if (stops_after(params.rules, b, j, stats)) reason = StopReason::kRule;
  }
  proposal.stop_reason[b] = static_cast<int32_t>(reason);
}

void proposal_load(const ProposalLoadParams& params, const Team& team) {
  const ProposalView& proposal = params.proposal;
  for_each_row(team, proposal.batch, [&](const Team& crew, int64_t b) {
    if (proposal.active[b]) load_row(params, b, crew);
    proposal.active[b] = false;
  });
  *proposal.num_active = 0;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
