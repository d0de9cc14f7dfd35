// verify, second launch: which drafts are accepted, what is emitted after them, every output.
// Blocks share the sums over two distributions that a replacement, block or overlap needs; the last
// of a request to arrive decides, draws and writes. Where nothing is to be summed there is only
// one.
#pragma once

#include "finish.cuh"
#include "residual.cuh"
#include "verify_outputs.cuh"

namespace tapout::cuda {

// No slot from `slot` on can be accepted, whatever the noise.
struct End {
  int32_t slot;
  int32_t failed;  // the first slot that is not accepted, but for `block`
  Status status;
};

// What a block is there for.
struct Plan {
  End end;
  int32_t level;  // the slot whose sums it shares,
  bool sums;      // if they are needed and not plain numbers
  bool whole;     // under `block`: the whole draft is accepted
  double weight;  // w of the level
};

// By one warp. Rows behind one that failed may hold anything.
__device__ inline End find_end(const Request& request) {
  uint32_t slot = request.length, failed = request.length;
  for (int32_t first = 0; first < request.length; first += 32) {
    const uint32_t here = first + lane_id();
    if (here >= static_cast<uint32_t>(request.length)) continue;
    const FoundRow& row = request.found(here);
    const bool stops = row.status != static_cast<int32_t>(Status::kOk) || (row.flags & kBad);
    if (stops || (row.flags & kForeign)) slot = min(slot, stops ? here : here + 1);
    if (!(row.flags & kGood)) failed = min(failed, here);
  }
  End end = {};
  end.slot = static_cast<int32_t>(warp_min(slot));
  end.failed = min(static_cast<int32_t>(warp_min(failed)), end.slot);
  end.status = static_cast<Status>(request.found(end.slot).status);
  const bool after_foreign = end.slot > 0 && (request.found(end.slot - 1).flags & kForeign);
  if (after_foreign || (end.status == Status::kOk && end.slot < request.length)) {
    end.status = Status::kBadDraft;
  }
  return end;
}

// By one thread: whether the excess of a level below the end may decide or replace.
__device__ inline bool needs_excess(const Request& request, const Plan& plan) {
  if (request.params.rule == Rule::kToken) return plan.level == plan.end.failed;
  if (request.params.rule != Rule::kBlock || plan.whole) return false;
  return plan.level == 0 ||
         block_may_accept(request.noise(plan.level - 1, Domain::kAccept), plan.weight);
}

// By one thread.
__device__ inline Plan plan_of(const Request& request, const End& end, int32_t level) {
  Plan plan = {end, needs_every_row(request.params) ? level : end.failed, false, false, 1.0};
  if (request.params.rule == Rule::kBlock) {
    double weight = 1.0;
    for (int32_t i = 0; i < end.slot; ++i) {
      if (i == plan.level) plan.weight = weight;
      weight = block_weight(weight, request.found(i).p_target, request.found(i).p_draft);
    }
    plan.whole =
        end.slot == 0 || block_accepts_all(request.noise(end.slot - 1, Domain::kAccept), weight);
  }
  if (plan.level >= end.slot || request.sampling.argmax) return plan;
  const bool wanted = request.params.overlap || needs_excess(request, plan);
  plan.sums = wanted && (request.found(plan.level).flags & kSpread);
  return plan;
}

__device__ inline Plan shared_plan(const Request& request, int32_t level) {
  SHARED(Plan, plan, [1]);
  if (warp_id() == 0) {
    const End end = find_end(request);
    if (lane_id() == 0) plan[0] = plan_of(request, end, level);
  }
  __syncthreads();
  return plan[0];
}

// Where the sums of a slot are.
__device__ inline int64_t sums_at(const Request& request, int32_t slot) {
  const VerifyScratch& scratch = request.scratch;
  const int64_t level = scratch.levels == 1 ? 0 : slot;
  return (int64_t{request.b} * scratch.levels + level) * scratch.rows.chunks;
}

template <class T>
__device__ inline void share_sums(const Request& request, const Plan& plan, const Split& split,
                                  int32_t part) {
  const int64_t at = sums_at(request, plan.level);
  float* shared = request.scratch.shared ? request.scratch.shared + at : nullptr;
  const Pair<T> pair = pair_of<T>(request, plan.level, plan.weight);
  const int32_t first = part * split.chunks;
  sum_pieces(pair, first, min(first + split.chunks, pair.pieces), request.scratch.excess + at,
             shared);
}

// ---- decisions ----------------------------------------------------------------------------------

// Of a one-hot target row.
__device__ inline double p_draft_of_argmax(const Request& request, int32_t slot) {
  const FoundRow& row = request.found(slot);
  const DraftRow draft = draft_row(request.params, request.b, slot, row.draft);
  return draft_weight(row.draft, draft_logit(draft, row.token));
}

// A level between 0 and the end, under `block`; by one warp.
__device__ inline bool level_holds(const Request& request, int32_t level) {
  const FoundRow& row = request.found(level);
  const double weight = load_fresh(&row.weight);
  const double uniform = request.noise(level - 1, Domain::kAccept);
  if (!block_may_accept(uniform, weight)) return false;
  double residual;
  if (row.flags & kOneHot) {
    residual = one_hot_residual(weight, row.p_target);
  } else if (request.sampling.argmax) {
    residual = residual_weight(weight, p_draft_of_argmax(request, level));
  } else {
    residual =
        warp_total(request.scratch.excess + sums_at(request, level), num_pieces(request, level));
  }
  return block_accepts(uniform, residual, weight);
}

// The largest level below the end that holds, under `block`; level 0 always does.
__device__ inline int32_t accepted_level(const Request& request, int32_t end) {
  SHARED(int32_t, largest, [kWarps]);
  int32_t accepted = 0;
  for (int32_t level = 1 + warp_id(); level < end; level += kWarps) {
    if (level_holds(request, level)) accepted = level;
  }
  if (lane_id() == 0) largest[warp_id()] = accepted;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) accepted = max(accepted, largest[warp]);
  return accepted;
}

// ---- the token after the accepted ones ----------------------------------------------------------

// In place of a rejected draft one of the residual; without residual mass, one of p_target.
template <class T>
__device__ inline int32_t final_token(const Request& request, const End& end, int32_t slot) {
  const FoundRow& found = request.found(slot);
  const Rule rule = request.params.rule;
  if (request.sampling.argmax || rule == Rule::kGumbel) return found.token;
  const Law law = law_of(found);
  const RowScratch own = request.own(slot);
  const Row<T> row = target_row<T>(request, slot);
  const double uniform = request.noise(slot, Domain::kResidual);
  double mass = law.kept;
  OneColumn without = {-1};
  if (slot < end.slot && !(found.flags & kOneHot)) {
    const double weight = rule == Rule::kBlock ? load_fresh(&found.weight) : 1.0;
    const float* excess = request.scratch.excess + sums_at(request, slot);
    const int32_t token = draw_excess(pair_of<T>(request, slot, weight), excess, uniform);
    if (token >= 0) return token;
  } else if (slot < end.slot && !(found.flags & kForeign)) {
    without.column = static_cast<int32_t>(request.drafted(slot));
    mass = take_out(row, request.sampling, own, law, law.kept, without.column, without);
  }
  const int32_t token = draw(row, request.sampling, own, law, uniform * mass, without);
  return token >= 0 ? token : without.column;
}

// ---- the request --------------------------------------------------------------------------------

// By one warp, of a slot before the end.
__device__ inline double overlap_of(const Request& request, int32_t slot) {
  const FoundRow& row = request.found(slot);
  if (row.flags & kOneHot) return row.p_target;
  if (!(row.flags & kSpread)) return 0.0;
  if (request.sampling.argmax) return p_draft_of_argmax(request, slot);
  return warp_total(request.scratch.shared + sums_at(request, slot), num_pieces(request, slot));
}

__device__ inline void write_overlap(const Request& request, int32_t end) {
  float* overlap = request.params.overlap + request.b * request.params.slots;
  for (int32_t slot = warp_id(); slot < request.params.slots; slot += kWarps) {
    const double value = slot < end ? overlap_of(request, slot) : -1.0;
    if (lane_id() == 0) overlap[slot] = static_cast<float>(value);
  }
}

// Decide, draw and write, in one block.
template <class T>
__device__ inline void end_request(const Request& request, const End& end, bool whole) {
  const VerifyParams& params = request.params;
  Ending ending = {end.failed, end.slot, false, -1, end.status};
  if (params.rule == Rule::kBlock) {
    ending.accepted = whole ? end.slot : accepted_level(request, end.slot);
  }
  const bool rejected = ending.accepted < end.slot;
  ending.emits = rejected || end.status == Status::kOk || end.status == Status::kBadDraft;
  if (ending.emits) ending.token = final_token<T>(request, end, ending.accepted);
  if (params.rule != Rule::kBlock && rejected) {
    const bool foreign = request.found(ending.accepted).flags & kForeign;
    ending.status = foreign ? Status::kBadDraft : Status::kOk;
    ending.decided = ending.accepted + 1;
  }
  write_tokens<T>(request, ending);
  write_accept_prob(request, ending);
  if (params.overlap) write_overlap(request, end.slot);
  if (threadIdx.x != 0) return;
  write_counts(params, request.b, ending);
  params.position[request.state] =
      offset_position(params.position[request.state], ending.emitted());
  request.scratch.decided[request.b] = 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    verify_end_kernel(const __grid_constant__ VerifyParams params,
                      const __grid_constant__ VerifyScratch scratch, Split split) {
  wait_for_previous_kernel();
  const int32_t index = blockIdx.x / split.blocks, part = blockIdx.x % split.blocks;
  const int32_t b = index / scratch.levels, level = index % scratch.levels;
  const int32_t state = live_state(params, b);
  if (state < 0) {
    if (part == 0 && level == 0) write_dead(params, b);
    return;
  }
  const Request request = request_at(params, scratch, b, state);
  const Plan plan = shared_plan(request, level);
  const int32_t levels = needs_every_row(request.params) ? max(plan.end.slot, 1) : 1;
  const int32_t parts = needs_every_row(request.params) || plan.sums ? split.blocks : 1;
  if (level >= levels || part >= parts) return;
  if (plan.sums) share_sums<T>(request, plan, split, part);
  if (part == 0 && threadIdx.x == 0 && plan.level < plan.end.slot) {
    request.found(plan.level).weight = plan.weight;
  }
  if (!arrives_last(scratch.tickets + b, static_cast<uint32_t>(levels) * parts)) return;
  // Read anew: registers that the sums do not hold meanwhile.
  end_request<T>(request_at(params, scratch, b, state), plan.end, plan.whole);
}

}  // namespace tapout::cuda
