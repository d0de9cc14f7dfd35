// verify: two launches, one over the target rows, one over the requests.
#include "ops.h"
#include "verify_end.cuh"
#include "verify_rows.cuh"

namespace tapout::cuda {

static int64_t num_rows(const VerifyParams& params) { return params.batch * (params.slots + 1); }

static VerifyScratch carve_verify(Carver& carver, const VerifyParams& params, uint32_t* tickets) {
  Wanted wanted = wanted_by(params.sampling, params.rule);
  wanted.raw = params.raw_logprobs && params.logprobs;
  VerifyScratch scratch = {};
  scratch.rows = carve(carver, num_rows(params), params.target.vocab, wanted);
  scratch.found = carver.take<FoundRow>(num_rows(params));
  scratch.levels =
      needs_every_row(params) && params.slots > 1 ? static_cast<int32_t>(params.slots) : 1;
  const int64_t sums = params.batch * scratch.levels * scratch.rows.chunks;
  scratch.excess = carver.take<float>(sums);
  if (params.overlap) scratch.shared = carver.take<float>(sums);
  scratch.row_tickets = tickets;
  scratch.tickets = tickets + num_rows(params);
  scratch.decided = reinterpret_cast<int32_t*>(scratch.tickets + params.batch);
  return scratch;
}

WorkspaceSize verify_workspace(const VerifyParams& params) {
  Carver carver = {nullptr};
  carve_verify(carver, params, nullptr);
  return {carver.used, num_rows(params) + 2 * params.batch};
}

template <class T>
static cudaError_t launch_verify(const VerifyParams& params, const VerifyScratch& scratch,
                                 Queue queue) {
  LaunchOptions options;
  options.stream = queue.stream;
  const int64_t vocab = params.target.vocab, levels = params.batch * scratch.levels;
  const Split rows = split_rows(num_rows(params), vocab, queue.multiprocessors);
  const auto kernel =
      params.rule == Rule::kGumbel ? verify_rows_kernel<T, true> : verify_rows_kernel<T, false>;
  const cudaError_t error = launch(kernel, static_cast<unsigned>(num_rows(params) * rows.blocks),
                                   kThreads, options, params, scratch, rows);
  if (error != cudaSuccess) return error;
  options.overlaps_previous = true;
  Split end = split_rows(levels, vocab, queue.multiprocessors);
  if (!params.draft.data) end = {1, end.blocks * end.chunks};  // nothing to sum
  return launch(verify_end_kernel<T>, static_cast<unsigned>(levels * end.blocks), kThreads, options,
                params, scratch, end);
}

cudaError_t verify(const VerifyParams& given, Workspace space, Queue queue) {
  if (given.batch == 0) return cudaSuccess;
  VerifyParams params = given;
  if (params.rule == Rule::kGreedy) {  // takes every draft as one-hot
    params.draft.data = nullptr;
    params.t2d = nullptr;
  }
  Carver carver = {space.bytes};
  const VerifyScratch scratch = carve_verify(carver, params, space.tickets);
  return with_element_type(params.target.dtype, [&](auto type) {
    return launch_verify<decltype(type)>(params, scratch, queue);
  });
}

}  // namespace tapout::cuda
