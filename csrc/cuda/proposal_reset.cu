// proposal_reset: begin a draft. Every block clears some rows, takes their rounds and counts those
// that draft; the last block adds up the counts.
#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/stop.h"
#include "finish.cuh"
#include "ops.h"
#include "sizes.h"

namespace tapout::cuda {

constexpr int kResetRows = kThreads;  // of one block

// All but tokens and stats of row b; whether it drafts.
static __device__ bool begin_row(const ProposalResetParams& params, int64_t b) {
  const ProposalView& proposal = params.proposal;
  const int64_t row = state_row(params.rows, b), slots = proposal.slots;
  const bool live = row >= 0 && (!params.live || params.live[b]);
  int64_t limit = params.max_length ? params.max_length[b] : slots;
  limit = limit < 0 ? 0 : limit > slots ? slots : limit;
  StopReason reason = limit == 0 ? StopReason::kMaxLength : StopReason::kNone;
  if (!live) {
    reason = StopReason::kNotLive;
  } else {
    take_prediction(params, b, row);
    if (stops_before_drafting(params.rules, row)) reason = StopReason::kPreDraft;
    const int64_t round = params.rng_round[row];
    params.round[b] = round;
    params.rng_round[row] = offset_position(round, 1);
  }
  proposal.length[b] = 0;
  params.out_max_length[b] = static_cast<int32_t>(limit);
  params.out_live[b] = live;
  proposal.stop_reason[b] = static_cast<int32_t>(reason);
  proposal.active[b] = reason == StopReason::kNone;
  return reason == StopReason::kNone;
}

static __device__ void clear_rows(const ProposalView& proposal, int64_t begin, int64_t end) {
  const int64_t slots = proposal.slots, columns = slots * kStatsColumns;
  for (int64_t i = begin * slots + threadIdx.x; i < end * slots; i += kThreads) {
    proposal.tokens[i] = -1;
  }
  for (int64_t i = begin * columns + threadIdx.x; i < end * columns; i += kThreads) {
    proposal.stats[i] = 0.0f;
  }
}

static __global__ void __launch_bounds__(kThreads)
    proposal_reset_kernel(const ProposalResetParams params, int32_t* counts, uint32_t* ticket) {
  SHARED(uint32_t, active, [1]);
  if (threadIdx.x == 0) active[0] = 0;
  __syncthreads();
  const ProposalView& proposal = params.proposal;
  const int64_t begin = int64_t{blockIdx.x} * kResetRows, b = begin + threadIdx.x;
  const uint32_t drafting = warp_ballot(b < proposal.batch && begin_row(params, b));
  if (lane_id() == 0) shared_add(active, static_cast<uint32_t>(__popc(drafting)));
  clear_rows(proposal, begin, min(begin + kResetRows, proposal.batch));
  __syncthreads();
  if (threadIdx.x == 0) counts[blockIdx.x] = static_cast<int32_t>(active[0]);
  if (!arrives_last(ticket, gridDim.x) || threadIdx.x > 0) return;
  int32_t total = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) total += load_fresh(counts + block);
  *proposal.num_active = total;
}

static unsigned reset_blocks(const ProposalResetParams& params) {
  const int32_t blocks = ceil_divide(params.proposal.batch, kResetRows);
  return blocks > 0 ? blocks : 1;  // no row at all: num_active is written still
}

WorkspaceSize proposal_reset_workspace(const ProposalResetParams& params) {
  return {int64_t{reset_blocks(params)} * 4, 1};
}

cudaError_t proposal_reset(const ProposalResetParams& params, Workspace workspace, Queue queue) {
  return launch(proposal_reset_kernel, reset_blocks(params), kThreads, {queue.stream}, params,
                reinterpret_cast<int32_t*>(workspace.bytes), workspace.tickets);
}

}  // namespace tapout::cuda
