// draft_step: statistics, one drafted token, the stop test and the bookkeeping of one slot; one
// launch. The last block of a row finishes it, and the last row counts who is still drafting.
#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/stop.h"
#include "draw.cuh"
#include "finish.cuh"
#include "gumbel.cuh"
#include "ops.h"
#include "scan.cuh"

namespace tapout::cuda {

// One batch row of the launch.
struct DraftTask {
  int64_t b;
  int64_t state;  // row of seed, position and sampling, or -1
  int32_t slot;
  bool drafting;
  bool room;      // there is a slot to fill
  void* kept;     // where its logits are kept, or null
  bool homeless;  // the proposal keeps logits, but none of this row
};

__device__ inline DraftTask draft_task(const DraftStepParams& params, int64_t b) {
  DraftTask task = {b, state_row(params.rows, b), params.proposal.length[b]};
  task.drafting = task.state >= 0 && params.proposal.active[b];
  task.room = task.slot >= 0 && task.slot < params.proposal.slots;
  if (!params.kept_logits) return task;
  const int64_t home = params.logits_row ? params.logits_row[b] : b;
  task.homeless = home < 0 || home >= params.kept_rows;
  if (task.homeless || !task.room) return task;
  const int64_t bytes = params.logits.dtype == DType::kF32 ? 4 : 2;
  task.kept = static_cast<char*>(params.kept_logits) +
              (home * params.kept_batch_stride + task.slot * params.kept_row_stride) * bytes;
  return task;
}

// What a row that drafts nothing repeats: its last drafted token, 0 if there is none.
__device__ inline int64_t last_token(const ProposalView& proposal, int64_t b) {
  const int64_t n = min(int64_t{proposal.length[b]}, proposal.slots);
  return n > 0 ? proposal.tokens[b * proposal.slots + n - 1] : 0;
}

// By one thread.
__device__ inline void end_row(const ProposalView& proposal, int64_t b, StopReason reason) {
  proposal.stop_reason[b] = static_cast<int32_t>(reason);
  proposal.active[b] = reason == StopReason::kNone;
}

struct DraftScratch {
  RowsScratch rows;
  int32_t* active;  // [B] as the row was left
};

// By every row's last block; the last row's has the answer.
__device__ inline void count_active(const ProposalView& proposal, const DraftScratch& scratch,
                                    int64_t b, uint32_t* ticket) {
  SHARED(int32_t, sums, [kWarps]);
  if (threadIdx.x == 0) scratch.active[b] = proposal.active[b];
  if (!arrives_last(ticket, static_cast<uint32_t>(proposal.batch))) return;
  int32_t active = 0;
  for (int64_t i = threadIdx.x; i < proposal.batch; i += kThreads) {
    active += load_fresh(scratch.active + i);
  }
  active = block_sum(active, sums);
  if (threadIdx.x == 0) *proposal.num_active = active;
}

__device__ inline StopReason reason_after(const DraftStepParams& params, const DraftTask& task,
                                          const float* stats) {
  if (stops_after(params.rules, task.state, task.slot, stats)) return StopReason::kRule;
  const bool full =
      task.slot + 1 >= params.max_length[task.b] || task.slot + 1 >= params.proposal.slots;
  return full ? StopReason::kMaxLength : StopReason::kNone;
}

// Draws the token of a row that has a law, and stores it with its statistics.
template <class T, bool kGumbel>
__device__ inline void fill_slot(const DraftStepParams& params, const DraftTask& task,
                                 const Row<T>& row, const RowSampling& sampling,
                                 const RowScratch& own, const Law& law, const Noise& noise) {
  const ProposalView& proposal = params.proposal;
  int32_t column;
  if (kGumbel) {
    column = draw_gumbel(row, sampling, own, law, noise);
  } else {
    const double uniform =
        uniform_at(noise.seed, 0, task.slot, params.round[task.b], Domain::kDraft);
    column = draw(row, sampling, own, law, uniform * law.kept, Nothing{});
  }
  const int64_t at = task.b * proposal.slots + task.slot;
  float* stats = proposal.stats + at * kStatsColumns;
  double logprob = 0.0;
  if (lane_id() == 0) logprob = log_probability_of(row, sampling, law, column);
  const float* estimate = params.accept_estimate;
  write_stats(stats, sampling, law, logprob, estimate ? stored_estimate(estimate[task.b]) : 0.0f);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const int64_t token = target_id(row, column);
  proposal.tokens[at] = token;
  proposal.length[task.b] = static_cast<int32_t>(task.slot + 1);
  params.next_token[task.b] = token;
  end_row(proposal, task.b, reason_after(params, task, stats));
}

template <class T, bool kGumbel>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T, true, kGumbel>)
    draft_step_kernel(DraftStepParams params, DraftScratch scratch, uint32_t* tickets,
                      Split split) {
  const DraftTask task = draft_task(params, blockIdx.x / split.blocks);
  const int32_t first = static_cast<int32_t>(blockIdx.x % split.blocks) * split.chunks;
  const ProposalView& proposal = params.proposal;
  if (task.drafting && task.room && !task.homeless) {
    const Row<T> row = row_at<T>(params.logits, params.mask, params.d2t, task.b, 0);
    const auto sampling_of_row = [&] {
      return row_sampling(params.sampling, task.state, params.rule, row.vocab);
    };
    const auto noise_of_row = [&] {
      return Noise{params.seed[task.state],
                   offset_position(params.position[task.state], task.slot)};
    };
    scan_row<T, true, kGumbel>(row, sampling_of_row(), scratch.rows.row(task.b),
                               kGumbel ? noise_of_row() : Noise{}, static_cast<T*>(task.kept),
                               first, first + split.chunks);
    if (!arrives_last(tickets + 1 + task.b, split.blocks)) return;
    const RowSampling sampling = sampling_of_row();  // not held in registers meanwhile
    const RowScratch own = scratch.rows.row(task.b);
    const Law law = finish_row<T, true>(row, sampling, own);
    if (law.status == Status::kOk) {
      fill_slot<T, kGumbel>(params, task, row, sampling, own, law, noise_of_row());
    } else if (threadIdx.x == 0) {
      params.next_token[task.b] = last_token(proposal, task.b);
      end_row(proposal, task.b, StopReason::kBadLogits);
    }
  } else {
    if (first != 0) return;
    if (threadIdx.x == 0) {
      params.next_token[task.b] = last_token(proposal, task.b);
      const StopReason reason = task.room ? StopReason::kBadLogits : StopReason::kMaxLength;
      if (task.drafting) end_row(proposal, task.b, reason);
    }
  }
  count_active(proposal, scratch, task.b, tickets);
}

static DraftScratch carve_rows(Carver& carver, const DraftStepParams& params) {
  const int64_t batch = params.proposal.batch;
  const Wanted wanted = wanted_by(params.sampling, params.rule);
  return {carve(carver, batch, params.logits.vocab, wanted), carver.take<int32_t>(batch)};
}

WorkspaceSize draft_step_workspace(const DraftStepParams& params) {
  Carver carver = {nullptr};
  carve_rows(carver, params);
  return {carver.used, 1 + params.proposal.batch};
}

cudaError_t draft_step(const DraftStepParams& params, Workspace space, Queue queue) {
  const int64_t batch = params.proposal.batch;
  if (batch == 0) return cudaSuccess;
  Carver carver = {space.bytes};
  const DraftScratch scratch = carve_rows(carver, params);
  const Split split = split_rows(batch, params.logits.vocab, queue.multiprocessors);
  return with_element_type(params.logits.dtype, [&](auto type) {
    using T = decltype(type);
    const bool gumbel = params.rule == Rule::kGumbel;
    return launch(gumbel ? draft_step_kernel<T, true> : draft_step_kernel<T, false>,
                  static_cast<unsigned>(batch * split.blocks), kThreads,
                  LaunchOptions{queue.stream}, params, scratch, space.tickets, split);
  });
}

}  // namespace tapout::cuda
