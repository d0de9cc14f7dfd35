// sample: one token from the target alone, with the noise of an empty draft; one launch.
#include "../core/rng.h"
#include "../core/rows.h"
#include "draw.cuh"
#include "finish.cuh"
#include "gumbel.cuh"
#include "ops.h"
#include "scan.cuh"

namespace tapout::cuda {

template <class T, bool kGumbel>
__device__ inline int32_t sample_row(const Row<T>& row, const RowSampling& sampling,
                                     const RowScratch& own, const Noise& noise, int64_t round) {
  const Law law = finish_row<T, false>(row, sampling, own);
  if (law.status != Status::kOk) return -1;
  if (kGumbel) return draw_gumbel(row, sampling, own, law, noise);
  const double uniform = uniform_at(noise.seed, 0, 0, round, Domain::kResidual);
  return draw(row, sampling, own, law, uniform * law.kept, Nothing{});
}

template <class T, bool kGumbel>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T, false, kGumbel>)
    sample_kernel(SampleParams params, RowsScratch scratch, uint32_t* tickets, Split split) {
  const int64_t b = blockIdx.x / split.blocks, state = state_row(params.rows, b);
  const int32_t first = static_cast<int32_t>(blockIdx.x % split.blocks) * split.chunks;
  if (state < 0 || (params.live && !params.live[b])) {
    if (first == 0 && threadIdx.x == 0) params.tokens[b] = -1;
    return;
  }
  const Row<T> row = row_at<T>(params.logits, params.mask, nullptr, b, 0);
  const auto sampling_of_row = [&] {
    return row_sampling(params.sampling, state, params.rule, row.vocab);
  };
  const auto noise_of_row = [&] { return Noise{params.seed[state], params.position[state]}; };
  scan_row<T, false, kGumbel>(row, sampling_of_row(), scratch.row(b),
                              kGumbel ? noise_of_row() : Noise{}, nullptr, first,
                              first + split.chunks);
  if (!arrives_last(tickets + b, split.blocks)) return;
  const RowSampling sampling = sampling_of_row();  // not held in registers meanwhile
  const Noise noise = noise_of_row();
  const int64_t round = params.rng_round[state];
  const int32_t token = sample_row<T, kGumbel>(row, sampling, scratch.row(b), noise, round);
  if (threadIdx.x != 0) return;
  params.tokens[b] = token;
  params.rng_round[state] = offset_position(round, 1);
  params.position[state] = offset_position(noise.position, token >= 0);
}

static RowsScratch carve_rows(Carver& carver, const SampleParams& params) {
  const Wanted wanted = wanted_by(params.sampling, params.rule);
  return carve(carver, params.batch, params.logits.vocab, wanted);
}

WorkspaceSize sample_workspace(const SampleParams& params) {
  Carver carver = {nullptr};
  carve_rows(carver, params);
  return {carver.used, params.batch};
}

cudaError_t sample(const SampleParams& params, Workspace space, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  Carver carver = {space.bytes};
  const RowsScratch scratch = carve_rows(carver, params);
  const Split split = split_rows(params.batch, params.logits.vocab, queue.multiprocessors);
  return with_element_type(params.logits.dtype, [&](auto type) {
    using T = decltype(type);
    const bool gumbel = params.rule == Rule::kGumbel;
    return launch(gumbel ? sample_kernel<T, true> : sample_kernel<T, false>,
                  static_cast<unsigned>(params.batch * split.blocks), kThreads,
                  LaunchOptions{queue.stream}, params, scratch, space.tickets, split);
  });
}

}  // namespace tapout::cuda
