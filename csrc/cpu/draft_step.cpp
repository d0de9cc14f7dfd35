// draft_step: statistics, one sampled token, the stop test and the bookkeeping of one slot.
#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/stop.h"
#include "draw.h"
#include "gumbel.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static int64_t last_token(const ProposalView& proposal, int64_t b) {
  const int64_t n = proposal.length[b] < proposal.slots ? proposal.length[b] : proposal.slots;
  return n > 0 ? proposal.tokens[b * proposal.slots + n - 1] : 0;
}

// The row of kept_logits that belongs to row b, or -1.
static int64_t kept_row(const DraftStepParams& params, int64_t b) {
  const int64_t row = params.logits_row ? params.logits_row[b] : b;
  return row >= 0 && row < params.kept_rows ? row : -1;
}

static void keep_row(const DraftStepParams& params, const Row& row, int64_t kept, int64_t slot,
                     const Team& team) {
  const int64_t offset = kept * params.kept_batch_stride + slot * params.kept_row_stride;
  copy_row(row, static_cast<char*>(params.kept_logits) + offset * element_bytes(row.dtype), team);
}

static StopReason reason_after(const DraftStepParams& params, int64_t b, int64_t state,
                               int64_t slot, const float* stats) {
  if (stops_after(params.rules, state, slot, stats)) return StopReason::kRule;
  const bool full = slot + 1 >= params.max_length[b] || slot + 1 >= params.proposal.slots;
  return full ? StopReason::kMaxLength : StopReason::kNone;
}

static int64_t draw_column(const DraftStepParams& params, int64_t b, int64_t state, int64_t slot,
                           RowLaw& law, const Team& team) {
  const int64_t seed = params.seed[state];
  if (params.rule == Rule::kGumbel) {
    return draw_gumbel(law, seed, offset_position(params.position[state], slot), team);
  }
  return draw(law, uniform_at(seed, 0, slot, params.round[b], Domain::kDraft));
}

// Fills one slot of row b; returns why drafting ends there.
static StopReason draft_row(const DraftStepParams& params, int64_t b, int64_t state,
                            const Team& team) {
  const ProposalView& proposal = params.proposal;
  const int64_t slot = proposal.length[b], kept = kept_row(params, b);
  if (slot < 0 || slot >= proposal.slots) return StopReason::kMaxLength;
  if (params.kept_logits && kept < 0) return StopReason::kBadLogits;
  const Row row = row_at(params.logits, params.mask, params.d2t, b, 0);
  const RowSampling sampling = row_sampling(params.sampling, state, params.rule, row.vocab);
  RowLaw law = row_law(row, sampling, true, team);
  if (law.status != Status::kOk) return StopReason::kBadLogits;
  const int64_t column = draw_column(params, b, state, slot, law, team);
  float* stats = proposal.stats + (b * proposal.slots + slot) * kStatsColumns;
  write_stats(law, law_log_probability(law, column), stats);
  if (params.accept_estimate) {
    stats[kAcceptEstimate] = stored_estimate(params.accept_estimate[b]);
  }
  if (params.kept_logits) keep_row(params, row, kept, slot, team);
  proposal.tokens[b * proposal.slots + slot] = target_id(row, column);
  proposal.length[b] = static_cast<int32_t>(slot + 1);
  return reason_after(params, b, state, slot, stats);
}

void draft_step(const DraftStepParams& params, const Team& team) {
  const ProposalView& proposal = params.proposal;
  for_each_row(team, proposal.batch, [&](const Team& crew, int64_t b) {
    const int64_t state = state_row(params.rows, b);
    if (proposal.active[b] && state >= 0) {
      const StopReason reason = draft_row(params, b, state, crew);
      proposal.stop_reason[b] = static_cast<int32_t>(reason);
      proposal.active[b] = reason == StopReason::kNone;
    }
    params.next_token[b] = last_token(proposal, b);
  });
  int32_t num_active = 0;
  for (int64_t b = 0; b < proposal.batch; ++b) num_active += proposal.active[b];
  *proposal.num_active = num_active;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
