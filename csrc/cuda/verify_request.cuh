// One request of verify: its target rows, what the first launch finds of each, where a draft ends.
#pragma once

#include "../core/rng.h"
#include "drafts.cuh"
#include "law.cuh"
#include "scratch.h"

namespace tapout::cuda {

enum RowFlags : int32_t {
  kGood = 1,     // the draft is accepted if those before it are
  kBad = 2,      // Draft::bad
  kForeign = 4,  // Draft::foreign
  kSpread = 8,   // p_draft > 0 has its mass on more ids than one: there is a kept row to compare
  kOneHot = 16,  // Draft::one_hot
};

// What the first launch leaves of a target row. That of a skipped row holds anything, but lies
// behind one that fails.
struct FoundRow {
  double max;  // Law, and the next three
  double kept;
  float cutoff;
  int32_t listed;
  int32_t token;  // the target's own: argmax, or the winner of gumbel
  int32_t status;
  int32_t flags;
  DraftScale draft;  // with kSpread
  double p_target;   // of the drafted token
  double p_draft;
  double raw_lse;  // ln sum e^z of the row as it came
  double weight;   // w of `block`, which the second launch writes
};

struct VerifyScratch {
  RowsScratch rows;       // [B, K+1]
  FoundRow* found;        // [B, K+1]
  float* excess;          // [B, levels, chunks] sums of [w p_target - p_draft]+ (residual.cuh)
  float* shared;          // and of min(p_target, p_draft), or null without overlap
  int32_t levels;         // slots with sums of their own: all, or the one that is replaced
  uint32_t* row_tickets;  // [B, K+1]
  int32_t* decided;       // [B] 0, or K + 1 - the first slot known to fail
  uint32_t* tickets;      // [B]
};

// Whether rows behind the first that fails are needed.
TAPOUT_HD bool needs_every_row(const VerifyParams& params) {
  return params.rule == Rule::kBlock || params.overlap;
}

__device__ inline int32_t request_length(const VerifyParams& params, int64_t b) {
  const int64_t length = params.length[b];
  return static_cast<int32_t>(length < 0 ? 0 : length > params.slots ? params.slots : length);
}

// Where the target row of a slot is, if the layout has it.
struct TargetPlace {
  int64_t batch;
  int64_t row;
  bool exists;
};

__device__ inline TargetPlace target_place(const VerifyParams& params, int64_t b, int64_t slot) {
  if (!params.row_start) return {b, slot, true};
  const int64_t begin = params.row_start[b], end = params.row_start[b + 1], row = begin + slot;
  return {0, row, row >= 0 && row < end && row < params.target_rows};
}

template <class T>
__device__ inline Row<T> target_row(const VerifyParams& params, const TokenMask& mask, int64_t b,
                                    int64_t slot) {
  const TargetPlace place = target_place(params, b, slot);
  return row_at<T>(params.target, mask, nullptr, place.batch, place.row);
}

// A request that takes part.
struct Request {
  const VerifyParams& params;
  const VerifyScratch& scratch;
  int32_t b;
  int32_t state;
  int32_t length;
  RowSampling sampling;

  __device__ int64_t row(int64_t slot) const { return b * (params.slots + 1) + slot; }
  __device__ FoundRow& found(int64_t slot) const { return scratch.found[row(slot)]; }
  __device__ RowScratch own(int64_t slot) const { return scratch.rows.row(row(slot)); }
  __device__ int64_t drafted(int64_t slot) const {
    return params.draft_tokens[b * params.slots + slot];
  }
  __device__ double noise(int64_t slot, Domain domain) const {
    return uniform_at(params.seed[state], 0, slot, params.round[b], domain);
  }
};

template <class T>
__device__ inline Row<T> target_row(const Request& request, int64_t slot) {
  return target_row<T>(request.params, request.params.mask, request.b, slot);
}

// `state` of a batch row that is live, else -1.
__device__ inline int32_t live_state(const VerifyParams& params, int32_t b) {
  return params.live[b] ? static_cast<int32_t>(state_row(params.rows, b)) : -1;
}

__device__ inline Request request_at(const VerifyParams& params, const VerifyScratch& scratch,
                                     int32_t b, int32_t state) {
  return {params,
          scratch,
          b,
          state,
          request_length(params, b),
          row_sampling(params.sampling, state, params.rule, params.target.vocab)};
}

__device__ inline Law law_of(const FoundRow& row) {
  Law law = {};
  law.status = static_cast<Status>(row.status);
  law.max = row.max;
  law.kept = row.kept;
  law.cutoff = row.cutoff;
  law.listed = row.listed;
  law.argmax = row.token;
  return law;
}

}  // namespace tapout::cuda
