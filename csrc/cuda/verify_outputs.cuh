// What verify writes of each request: whole block, a thread for each slot.
#pragma once

#include "verify_request.cuh"

namespace tapout::cuda {

// What is emitted: `accepted` drafts, and where `emits` a token after them.
struct Ending {
  int32_t accepted;
  int32_t decided;  // slots whose accept_prob is known
  bool emits;
  int32_t token;
  Status status;

  __device__ int32_t emitted() const { return accepted + (emits ? 1 : 0); }
};

template <class T>
__device__ inline float emitted_logprob(const Request& request, int64_t slot, int64_t token) {
  const FoundRow& found = request.found(slot);
  const bool raw = request.params.raw_logprobs;
  if (request.sampling.argmax && !raw) return 0.0f;
  const Row<T> row = target_row<T>(request.params, TokenMask{}, request.b, slot);
  const double logit = logit_at(row, static_cast<int32_t>(token));
  if (raw) return static_cast<float>(logit - found.raw_lse);
  const double inverse = inverse_temperature(request.sampling.temperature);
  return static_cast<float>(log_probability(logit, found.max, inverse, found.kept));
}

// Tokens and log-probabilities of every slot; -1 and 0 where nothing is emitted.
template <class T>
__device__ inline void write_tokens(const Request& request, const Ending& ending) {
  const VerifyParams& params = request.params;
  for (int64_t slot = threadIdx.x; slot <= params.slots; slot += kThreads) {
    const bool known = slot < ending.emitted();
    int64_t token = -1;
    if (known) token = slot < ending.accepted ? request.drafted(slot) : ending.token;
    params.tokens[request.row(slot)] = token;
    if (!params.logprobs) continue;
    params.logprobs[request.row(slot)] = known ? emitted_logprob<T>(request, slot, token) : 0.0f;
  }
}

__device__ inline void write_accept_prob(const Request& request, const Ending& ending) {
  const VerifyParams& params = request.params;
  const bool weighed = params.rule == Rule::kToken || params.rule == Rule::kBlock;
  for (int64_t slot = threadIdx.x; slot < params.slots; slot += kThreads) {
    double value = -1.0;
    if (slot < ending.decided) {
      const FoundRow& found = request.found(slot);
      value = weighed ? accept_probability(found.p_target, found.p_draft)
                      : static_cast<double>((found.flags & kGood) != 0);
    }
    params.accept_prob[request.b * params.slots + slot] = static_cast<float>(value);
  }
}

// One thread.
__device__ inline void write_counts(const VerifyParams& params, int64_t b, const Ending& ending) {
  params.num_accepted[b] = ending.accepted;
  params.num_emitted[b] = ending.emitted();
  int64_t last = 0;
  if (ending.emits) {
    last = ending.token;
  } else if (ending.accepted > 0) {
    last = params.draft_tokens[b * params.slots + ending.accepted - 1];
  }
  params.last_token[b] = last;
  params.status[b] = static_cast<int32_t>(ending.status);
}

// A padding row, by the whole block.
__device__ inline void write_dead(const VerifyParams& params, int64_t b) {
  for (int64_t slot = threadIdx.x; slot <= params.slots; slot += kThreads) {
    params.tokens[b * (params.slots + 1) + slot] = -1;
    if (params.logprobs) params.logprobs[b * (params.slots + 1) + slot] = 0.0f;
    if (slot == params.slots) continue;
    params.accept_prob[b * params.slots + slot] = -1.0f;
    if (params.overlap) params.overlap[b * params.slots + slot] = -1.0f;
  }
  if (threadIdx.x == 0) write_counts(params, b, {0, 0, false, -1, Status::kOk});
}

}  // namespace tapout::cuda
