// verify, first launch: the law of every target row that is needed, and what it says of its draft.
// Blocks are ordered by slot, so that the first rows of all requests run first. A row that cannot
// be accepted says so; rows after it that have not begun are skipped. Skipping changes no result.
#pragma once

#include "finish.cuh"
#include "gumbel.cuh"
#include "scan.cuh"
#include "verify_request.cuh"

namespace tapout::cuda {

// Rows after `slot` are not needed. Among slots the first counts, so the flag is a maximum.
__device__ inline void announce(const Request& request, int32_t slot) {
  const VerifyScratch& scratch = request.scratch;
  store_max(scratch.decided + request.b, static_cast<int32_t>(request.params.slots + 1 - slot));
}

// One thread reads for all: another block may raise the flag meanwhile. Once true for a block of a
// row it is true for those that arrive after it.
__device__ inline bool is_skipped(const Request& request, int32_t slot) {
  SHARED(int32_t, skipped, [1]);
  if (slot == 0) return false;  // behind no other
  __syncthreads();
  if (threadIdx.x == 0) {
    skipped[0] =
        load_relaxed(request.scratch.decided + request.b) > request.params.slots + 1 - slot;
  }
  __syncthreads();
  return skipped[0] != 0;
}

// What the row alone says of the draft in its slot.
template <class T>
__device__ inline void judge_draft(const Request& request, int32_t slot, const Row<T>& row,
                                   const Law& law, FoundRow& found) {
  const Rule rule = request.params.rule;
  const Draft draft = draft_at(request.params, request.b, slot);
  found.p_draft = draft.p_draft;
  if (!draft.foreign) {
    found.p_target = exp(log_probability_of(row, request.sampling, law, draft.token));
  }
  bool good = false;
  if (rule == Rule::kToken) {
    good = accepts(request.noise(slot, Domain::kAccept), found.p_target, draft.p_draft);
  } else if (rule != Rule::kBlock) {
    good = found.token == draft.token;
  }
  const bool spread = !draft.one_hot && draft.p_draft > 0.0;
  if (spread)
    found.draft = draft_scale(request.params, draft_stats(request.params, request.b, slot),
                              request.b, slot, draft.token);
  found.flags = (good && !draft.bad ? kGood : 0) | (draft.bad ? kBad : 0) |
                (draft.foreign ? kForeign : 0) | (draft.one_hot ? kOneHot : 0) |
                (spread ? kSpread : 0);
}

__device__ inline Noise gumbel_at(const Request& request, int32_t slot) {
  const VerifyParams& params = request.params;
  return {params.seed[request.state], offset_position(params.position[request.state], slot)};
}

// This block's part of a row; whether it is the one that finishes it.
template <class T, bool kGumbel>
__device__ inline bool scan_target(const Request& request, int32_t slot, const Split& split,
                                   int32_t part) {
  if (!is_skipped(request, slot)) {
    const Row<T> row = target_row<T>(request, slot);
    const RowScratch own = request.own(slot);
    const Noise noise = kGumbel ? gumbel_at(request, slot) : Noise{};
    const int32_t first = part * split.chunks, last = first + split.chunks;
    scan_row<T, false, kGumbel>(row, request.sampling, own, noise, nullptr, first, last);
    if (own.raw) scan_raw(row, own, first, last);
  }
  uint32_t* ticket = request.scratch.row_tickets + request.row(slot);
  return arrives_last(ticket, split.blocks) && !is_skipped(request, slot);
}

template <class T, bool kGumbel>
__device__ inline void finish_target(const Request& request, int32_t slot) {
  const Row<T> row = target_row<T>(request, slot);
  const RowScratch own = request.own(slot);
  const Law law = finish_row<T, false>(row, request.sampling, own);
  const bool ok = law.status == Status::kOk;
  FoundRow found = {};
  found.max = law.max;
  found.kept = law.kept;
  found.cutoff = law.cutoff;
  found.listed = law.listed;
  found.token = law.argmax;
  found.status = static_cast<int32_t>(law.status);
  if (kGumbel && ok) {
    found.token = draw_gumbel(row, request.sampling, own, law, gumbel_at(request, slot));
  }
  if (own.raw && ok) found.raw_lse = raw_log_sum(own, num_chunks(row.vocab));
  if (threadIdx.x != 0) return;
  if (ok && slot < request.length) judge_draft(request, slot, row, law, found);
  request.found(slot) = found;
  const bool stops = !ok || (found.flags & (kBad | kForeign)) != 0;
  const bool decides = !needs_every_row(request.params) && !(found.flags & kGood);
  if (stops || decides) announce(request, slot);
}

// With gumbel's registers there is room for one block on a multiprocessor, not measured yet.
template <class T, bool kGumbel>
__global__ void __launch_bounds__(kThreads, kGumbel ? 1 : 2)
    verify_rows_kernel(const __grid_constant__ VerifyParams params,
                       const __grid_constant__ VerifyScratch scratch, Split split) {
  let_next_kernel_start();
  const int32_t index = blockIdx.x / split.blocks, part = blockIdx.x % split.blocks;
  const int32_t batch = static_cast<int32_t>(params.batch), b = index % batch, slot = index / batch;
  const int32_t state = live_state(params, b);
  if (state < 0 || slot > request_length(params, b)) return;
  const Request request = request_at(params, scratch, b, state);
  if (!target_place(params, b, slot).exists) {
    if (part != 0 || threadIdx.x != 0) return;
    request.found(slot).status = static_cast<int32_t>(Status::kEmpty);
    announce(request, slot);
  } else if (scan_target<T, kGumbel>(request, slot, split, part)) {
    // Read anew: registers that the scan does not hold meanwhile.
    finish_target<T, kGumbel>(request_at(params, scratch, b, state), slot);
  }
}

}  // namespace tapout::cuda
