// row_stats: every statistic of a row of logits, in one visit of it; one launch.
#include "finish.cuh"
#include "law.cuh"
#include "ops.h"
#include "scan.cuh"

namespace tapout::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T, true, false>)
    row_stats_kernel(RowStatsParams params, RowsScratch scratch, uint32_t* tickets, Split split) {
  const int64_t b = blockIdx.x / split.blocks;
  const int32_t first = static_cast<int32_t>(blockIdx.x % split.blocks) * split.chunks;
  const Row<T> row = row_at<T>(params.logits, params.mask, nullptr, b, 0);
  const auto sampling_of_row = [&] {
    return row_sampling(params.sampling, b, Rule::kToken, row.vocab);
  };
  scan_row<T, true, false>(row, sampling_of_row(), scratch.row(b), Noise{}, nullptr, first,
                           first + split.chunks);
  if (!arrives_last(tickets + b, split.blocks)) return;
  const RowSampling sampling = sampling_of_row();  // not held in registers meanwhile
  const Law law = finish_row<T, true>(row, sampling, scratch.row(b));
  float* stats = params.stats + b * kStatsColumns;
  if (law.status != Status::kOk) return write_invalid_stats(stats);
  double logprob = 0.0;
  if (params.token && lane_id() == 0) {
    logprob = log_probability_of(row, sampling, law, params.token[b]);
  }
  write_stats(stats, sampling, law, logprob, 0.0f);
}

static RowsScratch carve_rows(Carver& carver, const RowStatsParams& params) {
  const Wanted wanted = wanted_by(params.sampling, Rule::kToken);
  return carve(carver, params.batch, params.logits.vocab, wanted);
}

WorkspaceSize row_stats_workspace(const RowStatsParams& params) {
  Carver carver = {nullptr};
  carve_rows(carver, params);
  return {carver.used, params.batch};
}

cudaError_t row_stats(const RowStatsParams& params, Workspace space, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  Carver carver = {space.bytes};
  const RowsScratch scratch = carve_rows(carver, params);
  const Split split = split_rows(params.batch, params.logits.vocab, queue.multiprocessors);
  return with_element_type(params.logits.dtype, [&](auto type) {
    using T = decltype(type);
    return launch(row_stats_kernel<T>, static_cast<unsigned>(params.batch * split.blocks), kThreads,
                  LaunchOptions{queue.stream}, params, scratch, space.tickets, split);
  });
}

}  // namespace tapout::cuda
