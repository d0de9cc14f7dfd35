// proposal_load: take over drafts made elsewhere, cut where the arm would have stopped.
#include "../core/rows.h"
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

static int64_t column_of(const ProposalLoadParams& params, int64_t token) {
  if (!params.t2d) return token;
  return token >= 0 && token < params.target_ids ? params.t2d[token] : -1;
}

// Statistics of slot j; false if its row of logits has no distribution.
static bool load_slot(const ProposalLoadParams& params, int64_t b, int64_t state, int64_t j,
                      const Team& team) {
  const int64_t token = params.source[b * params.columns + j];
  float* stats = params.proposal.stats + (b * params.proposal.slots + j) * kStatsColumns;
  if (!params.logits.data) {
    for (int i = 0; i < kStatsColumns; ++i) stats[i] = i == kTop1Prob ? 1.0f : 0.0f;
    return true;
  }
  const Row row = row_at(params.logits, params.mask, params.d2t, b, j);
  const RowSampling sampling = row_sampling(params.sampling, state, Rule::kToken, row.vocab);
  const RowLaw law = row_law(row, sampling, true, team);
  if (law.status != Status::kOk) return false;
  write_stats(law, law_log_probability(law, column_of(params, token)), stats);
  if (row.mask) write_masked(row, 0, row.vocab, const_cast<char*>(row.data));
  return true;
}

static void load_row(const ProposalLoadParams& params, int64_t b, int64_t state, const Team& team) {
  const ProposalView& proposal = params.proposal;
  const int64_t slots = proposal.slots, available = offered(params, b);
  int64_t limit = params.max_length[b];
  limit = limit > slots ? slots : limit;
  StopReason reason = StopReason::kNone;
  for (int64_t j = 0; reason == StopReason::kNone && j < available && j < limit; ++j) {
    if (!load_slot(params, b, state, j, team)) {
      reason = StopReason::kBadLogits;
      break;
    }
    proposal.tokens[b * slots + j] = params.source[b * params.columns + j];
    proposal.length[b] = static_cast<int32_t>(j + 1);
    if (j + 1 >= limit) reason = StopReason::kMaxLength;
    const float* stats = proposal.stats + (b * slots + j) * kStatsColumns;
    if (stops_after(params.rules, state, j, stats)) reason = StopReason::kRule;
  }
  proposal.stop_reason[b] = static_cast<int32_t>(reason);
}

void proposal_load(const ProposalLoadParams& params, const Team& team) {
  const ProposalView& proposal = params.proposal;
  for_each_row(team, proposal.batch, [&](const Team& crew, int64_t b) {
    const int64_t state = state_row(params.rows, b);
    if (proposal.active[b] && state >= 0) load_row(params, b, state, crew);
    proposal.active[b] = false;
  });
  *proposal.num_active = 0;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
