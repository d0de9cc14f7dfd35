// draft_step: statistics, one sampled token, the stop test and the bookkeeping of one slot.
#include "../core/rng.h"
#include "../core/stop.h"
#include "draw.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static int64_t last_token(const ProposalView& proposal, int64_t b) {
  const int64_t n = proposal.length[b] < proposal.slots ? proposal.length[b] : proposal.slots;
  return n > 0 ? proposal.tokens[b * proposal.slots + n - 1] : 0;
}

static void keep_row(const DraftStepParams& params, const Row& row, int64_t b, int64_t slot,
                     const Team& team) {
  if (!params.kept_logits) return;
  const int64_t bytes = element_bytes(row.dtype), piece = kPieceChunks * kChunk;
  const int64_t offset = b * params.kept_batch_stride + slot * params.kept_row_stride;
  char* to = static_cast<char*>(params.kept_logits) + offset * bytes;
  for_each(team, (row.vocab + piece - 1) / piece, [&](int64_t, int64_t i) {
    const int64_t begin = i * piece;
    const int64_t n = row.vocab - begin < piece ? row.vocab - begin : piece;
    memmove(to + begin * bytes, row.data + begin * bytes, n * bytes);
  });
}

static StopReason reason_after(const DraftStepParams& params, int64_t b, int64_t slot,
                               const float* stats) {
  if (stops_after(params.rules, b, slot, stats)) return StopReason::kRule;
  const bool full = slot + 1 >= params.max_length[b] || slot + 1 >= params.proposal.slots;
  return full ? StopReason::kMaxLength : StopReason::kNone;
}

// Fills one slot of row b; returns why drafting ends there.
static StopReason draft_row(const DraftStepParams& params, int64_t b, const Team& team) {
  const ProposalView& proposal = params.proposal;
  const int64_t slot = proposal.length[b];
  if (slot < 0 || slot >= proposal.slots) return StopReason::kMaxLength;
  const Row row = row_at(params.logits, b, 0);
  const RowSampling sampling = row_sampling(params.sampling, b, params.rule, row.vocab);
  RowLaw law = row_law(row, sampling, true, team);
  if (law.status != Status::kOk) return StopReason::kBadLogits;
  const int64_t token =
      draw(law, uniform_at(params.seed[b], 0, slot, params.round[b], Domain::kDraft));
  float* stats = proposal.stats + (b * proposal.slots + slot) * kStatsColumns;
  write_stats(law, law_log_probability(law, token), stats);
  keep_row(params, row, b, slot, team);
  proposal.tokens[b * proposal.slots + slot] = token;
  proposal.length[b] = static_cast<int32_t>(slot + 1);
  return reason_after(params, b, slot, stats);
}

void draft_step(const DraftStepParams& params, const Team& team) {
  const ProposalView& proposal = params.proposal;
  for_each_row(team, proposal.batch, [&](const Team& crew, int64_t b) {
    if (proposal.active[b]) {
      const StopReason reason = draft_row(params, b, crew);
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
