// proposal_reset: begin a draft. Clears every row, takes a round, applies the pre-draft test.
#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/stop.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static StopReason reason_at_start(const Rules& rules, int64_t row, bool live, int64_t limit) {
  if (!live) return StopReason::kNotLive;
  if (stops_before_drafting(rules, row)) return StopReason::kPreDraft;
  return limit == 0 ? StopReason::kMaxLength : StopReason::kNone;
}

void proposal_reset(const ProposalResetParams& params) {
  const ProposalView& proposal = params.proposal;
  const int64_t slots = proposal.slots;
  int32_t num_active = 0;
  for (int64_t b = 0; b < proposal.batch; ++b) {
    const int64_t row = state_row(params.rows, b);
    const bool live = row >= 0 && (!params.live || params.live[b]);
    int64_t limit = params.max_length ? params.max_length[b] : slots;
    limit = limit < 0 ? 0 : limit > slots ? slots : limit;
    if (live) take_prediction(params, b, row);
    const StopReason reason = reason_at_start(params.rules, row, live, limit);
    for (int64_t j = 0; j < slots; ++j) proposal.tokens[b * slots + j] = -1;
    float* stats = proposal.stats + b * slots * kStatsColumns;
    for (int64_t i = 0; i < slots * kStatsColumns; ++i) stats[i] = 0.0f;
    proposal.length[b] = 0;
    params.out_max_length[b] = static_cast<int32_t>(limit);
    params.out_live[b] = live;
    if (live) {
      params.round[b] = params.rng_round[row];
      params.rng_round[row] = offset_position(params.rng_round[row], 1);
    }
    proposal.stop_reason[b] = static_cast<int32_t>(reason);
    proposal.active[b] = reason == StopReason::kNone;
    num_active += proposal.active[b];
  }
  *proposal.num_active = num_active;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
