// proposal_load: take over drafts made elsewhere, cut where the arm would stop; one launch. The
// statistics of a request's slots are found side by side; the last block to arrive then goes
// through the slots in order.
#include "../core/rows.h"
#include "../core/stop.h"
#include "finish.cuh"
#include "law.cuh"
#include "ops.h"
#include "scan.cuh"

namespace tapout::cuda {

// What a slot with logits leaves for its request's last block.
struct SlotScratch {
  RowsScratch rows;  // [B, levels]
  float* stats;      // [B, levels, 8]
  int32_t* status;   // [B, levels]
};

struct LoadTickets {
  uint32_t* requests;  // [B]
  uint32_t* rows;      // [B, levels]
};

__device__ inline int64_t offered(const ProposalLoadParams& params, int64_t b) {
  if (params.source_length) return min(int64_t{params.source_length[b]}, params.columns);
  int64_t n = 0;
  while (n < params.columns && params.source[b * params.columns + n] >= 0) ++n;
  return n;
}

// How many slots the request can take.
__device__ inline int64_t slots_to_load(const ProposalLoadParams& params, int64_t b,
                                        int64_t state) {
  const ProposalView& proposal = params.proposal;
  if (state < 0 || !proposal.active[b]) return 0;
  const int64_t limit = min(int64_t{params.max_length[b]}, proposal.slots);
  return max(min(offered(params, b), limit), int64_t{0});
}

// The draft id of a source token, -1 where there is none.
__device__ inline int64_t column_of_token(const ProposalLoadParams& params, int64_t token) {
  if (!params.t2d) return token;
  return token >= 0 && token < params.target_ids ? params.t2d[token] : -1;
}

// The statistics and the status of one slot, by the last block of its row.
template <class T>
__device__ inline void measure_slot(const ProposalLoadParams& params, const Row<T>& row,
                                    const RowSampling& sampling, const SlotScratch& scratch,
                                    int64_t at, int64_t token) {
  const Law law = finish_row<T, true>(row, sampling, scratch.rows.row(at));
  if (threadIdx.x == 0) scratch.status[at] = static_cast<int32_t>(law.status);
  if (law.status != Status::kOk) return;
  double logprob = 0.0;
  if (lane_id() == 0) {
    logprob = log_probability_of(row, sampling, law, column_of_token(params, token));
  }
  write_stats(scratch.stats + at * kStatsColumns, sampling, law, logprob, 0.0f);
}

// Takes the slots in order until one ends the draft, by one thread; how many were taken.
__device__ inline int64_t take_slots(const ProposalLoadParams& params, const SlotScratch& scratch,
                                     int64_t b, int64_t state, int64_t count, int64_t levels) {
  const ProposalView& proposal = params.proposal;
  StopReason reason = StopReason::kNone;
  int64_t taken = 0;
  while (reason == StopReason::kNone && taken < count) {
    const int64_t from = b * levels + taken, to = b * proposal.slots + taken;
    if (scratch.status && load_fresh(scratch.status + from) != 0) {
      reason = StopReason::kBadLogits;
      break;
    }
    float* stats = proposal.stats + to * kStatsColumns;
    for (int i = 0; i < kStatsColumns; ++i) {
      const float one_hot = i == kTop1Prob ? 1.0f : 0.0f;
      stats[i] = scratch.stats ? load_fresh(scratch.stats + from * kStatsColumns + i) : one_hot;
    }
    proposal.tokens[to] = params.source[b * params.columns + taken];
    if (stops_after(params.rules, state, taken, stats)) {
      reason = StopReason::kRule;
    } else if (taken + 1 >= min(int64_t{params.max_length[b]}, proposal.slots)) {
      reason = StopReason::kMaxLength;
    }
    ++taken;
  }
  proposal.length[b] = static_cast<int32_t>(taken);
  proposal.stop_reason[b] = static_cast<int32_t>(reason);
  return taken;
}

// Sets the masked logits of the slots taken to -inf; by the whole block.
template <class T>
__device__ inline void forbid(const ProposalLoadParams& params, int64_t b, int64_t taken) {
  for (int64_t j = 0; j < taken; ++j) {
    const Row<T> row = row_at<T>(params.logits, params.mask, params.d2t, b, j);
    for (int32_t column = threadIdx.x; column < row.vocab; column += kThreads) {
      if (!allows(row, column)) store_lowest(const_cast<T*>(row.logits) + column);
    }
  }
}

// By the last block of a request.
template <class T>
__device__ inline void load_request(const ProposalLoadParams& params, const SlotScratch& scratch,
                                    int64_t b, int64_t state, int64_t count, int64_t levels) {
  SHARED(int64_t, taken, [1]);
  __syncthreads();  // every thread has read `active`
  if (threadIdx.x == 0) {
    if (count > 0) taken[0] = take_slots(params, scratch, b, state, count, levels);
    params.proposal.active[b] = false;
  }
  __syncthreads();
  if (count > 0 && params.logits.data && params.mask.bits) forbid<T>(params, b, taken[0]);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T, true, false>)
    proposal_load_kernel(ProposalLoadParams params, SlotScratch scratch, LoadTickets tickets,
                         int64_t levels, Split split) {
  const int32_t first = static_cast<int32_t>(blockIdx.x % split.blocks) * split.chunks;
  const int64_t at = blockIdx.x / split.blocks, b = at / levels, j = at % levels;
  const int64_t state = state_row(params.rows, b);
  const int64_t count = slots_to_load(params, b, state);
  if (blockIdx.x == 0 && threadIdx.x == 0) *params.proposal.num_active = 0;
  if (params.logits.data && j < count) {
    const Row<T> row = row_at<T>(params.logits, params.mask, params.d2t, b, j);
    const auto sampling_of_row = [&] {
      return row_sampling(params.sampling, state, Rule::kToken, row.vocab);
    };
    scan_row<T, true, false>(row, sampling_of_row(), scratch.rows.row(at), Noise{}, nullptr, first,
                             first + split.chunks);
    if (!arrives_last(tickets.rows + at, split.blocks)) return;
    const int64_t token = params.source[b * params.columns + j];
    measure_slot(params, row, sampling_of_row(), scratch, at, token);
    if (!arrives_last(tickets.requests + b, static_cast<uint32_t>(count))) return;
  } else if (first != 0 || j != 0) {
    return;
  }
  load_request<T>(params, scratch, b, state, count, levels);
}

// Slots of a request that are looked at.
static int64_t num_levels(const ProposalLoadParams& params) {
  const int64_t slots = params.proposal.slots;
  const int64_t levels = params.columns < slots ? params.columns : slots;
  return params.logits.data && levels > 1 ? levels : 1;
}

static SlotScratch carve_slots(Carver& carver, const ProposalLoadParams& params) {
  const int64_t count = params.proposal.batch * num_levels(params);
  if (!params.logits.data) return {};
  const Wanted wanted = wanted_by(params.sampling, Rule::kToken);
  return {carve(carver, count, params.logits.vocab, wanted),
          carver.take<float>(count * kStatsColumns), carver.take<int32_t>(count)};
}

WorkspaceSize proposal_load_workspace(const ProposalLoadParams& params) {
  Carver carver = {nullptr};
  carve_slots(carver, params);
  return {carver.used, params.proposal.batch * (1 + num_levels(params))};
}

cudaError_t proposal_load(const ProposalLoadParams& params, Workspace space, Queue queue) {
  const int64_t batch = params.proposal.batch, levels = num_levels(params);
  if (batch == 0) return cudaSuccess;
  Carver carver = {space.bytes};
  const SlotScratch scratch = carve_slots(carver, params);
  const Split split = split_rows(batch * levels, params.logits.vocab, queue.multiprocessors);
  return with_element_type(params.logits.dtype, [&](auto type) {
    return launch(proposal_load_kernel<decltype(type)>,
                  static_cast<unsigned>(batch * levels * split.blocks), kThreads,
                  LaunchOptions{queue.stream}, params, scratch,
                  LoadTickets{space.tickets, space.tickets + batch}, levels, split);
  });
}

}  // namespace tapout::cuda
