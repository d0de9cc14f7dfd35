// One row of a tree as its rules see it: the target's law, what its children were drawn from, and
// what rejections have left (core/tree.h). It is in shared memory, where one thread changes it:
// that leaves registers to the passes over rows.
#pragma once

#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/tree.h"
#include "gumbel.cuh"
#include "pair.cuh"
#include "scan.cuh"

namespace tapout::cuda {

constexpr double kLittleLeft = 0.25;  // of p_draft: below, a difference has lost too much

// Of the row that a request is at.
struct TreeScratch {
  RowsScratch rows;  // [B]
  float* excess;     // [B, chunks] sums of [p_target/s - p_draft]+ (pair.cuh)
};

struct Rejected {
  int32_t token;
  int32_t column;  // of the draft
};

template <class T>
struct TreeRow {
  RowSampling sampling;
  Law law;
  DraftRow draft;  // where `drawn`
  double p_first;  // p_draft of the first child; 0 or NaN: it cannot have been drawn
  double kept;     // what one-hot children have left of law.kept
  TreeResidual residual;
  int32_t state;    // row of seed, position and sampling
  int32_t at;       // 0: the root, i + 1: node i
  int32_t node;     // the child to look at, then the accepted one; -1: none
  int32_t count;    // rejected children
  int32_t removed;  // the token that the last rejection takes out of one-hot masses, -1: none
  bool drawn;       // the children come from one p_draft, without replacement; else one-hot each
  bool certain;     // all of p_draft is on the first child
  bool bad;         // met a child that the draft, or the target, cannot emit
  bool childless;   // read once more, without its children
};

template <class T>
struct TreeRequest {
  const TreeVerifyParams& params;
  const TreeScratch& scratch;
  TreeRow<T>& row;     // shared
  Rejected* rejected;  // shared: children of the row, in order
  int32_t b;

  __device__ RowScratch own() const { return scratch.rows.row(b); }
  __device__ float* excess() const { return scratch.excess + b * scratch.rows.chunks; }
  __device__ Row<T> target() const {
    return row_at<T>(params.target, params.mask, nullptr, b, row.at);
  }
  __device__ double noise(int32_t slot, Domain domain) const {
    return uniform_at(params.seed[row.state], 0, slot, params.round[b], domain);
  }
  __device__ int64_t token(int32_t node) const {
    return params.draft_tokens[b * params.nodes + node];
  }
  __device__ const float* stats() const {
    return params.stats + (b * (params.nodes + 1) + row.at) * kStatsColumns;
  }
  __device__ int32_t first_child() const {
    if (!params.valid[b]) return -1;
    const int32_t link = params.first_child[b * (params.nodes + 1) + row.at];
    return static_cast<int32_t>(next_child(link, row.at, params.nodes));
  }
  __device__ int32_t next_sibling(int32_t node) const {
    const int32_t link = params.next_sibling[b * params.nodes + node];
    return static_cast<int32_t>(next_child(link, node + 1, params.nodes));
  }
};

// The rejected children of a row.
struct AnyRejected {
  const Rejected* rejected;
  int32_t count;

  __device__ bool operator()(int32_t id) const {
    bool found = false;
    for (int32_t i = 0; i < count; ++i) found |= rejected[i].token == id;
    return found;
  }
};

// ---- the row ------------------------------------------------------------------------------------

// Sends for a row: a block alone has too few loads under way to wait for each.
template <class T>
__device__ inline void fetch_row(const Row<T>& row) {
  constexpr int32_t kLine = 128 / sizeof(T);
  for (int32_t i = threadIdx.x * kLine; i < row.vocab; i += kThreads * kLine) {
    prefetch_to_l2(row.logits + i);
  }
}

// What the children of the row were drawn from, relative to the first of them; by one thread.
template <class T>
__device__ inline void set_draft(const TreeRequest<T>& request) {
  const TreeVerifyParams& params = request.params;
  TreeRow<T>& row = request.row;
  row.drawn = params.rule == Rule::kToken && params.draft.data && row.node >= 0;
  if (!row.drawn) return;
  const float* stats = request.stats();
  const int64_t token = request.token(row.node);
  const bool known = kept_row(params, request.b) >= 0 && draft_id(params, token) >= 0;
  row.p_first = known ? draft_probability(stats) : 0.0;
  row.certain = stats[kTemperature] == 0.0f;
  if (!(row.p_first > 0.0)) return;
  row.draft =
      draft_row(params, request.b, row.at, draft_scale(params, stats, request.b, row.at, token));
}

// Reads the row that `at` says, by the whole block; its law is in shared memory afterwards.
template <class T, bool kGumbel>
__device__ inline void read_row(const TreeRequest<T>& request, const Noise& noise) {
  TreeRow<T>& row = request.row;
  const TreeVerifyParams& params = request.params;
  const Row<T> target = request.target();
  const RowScratch own = request.own();
  const auto sampling = [&] {
    return row_sampling(params.sampling, request.row.state, params.rule, target.vocab);
  };
  fetch_row(target);
  scan_row<T, false, kGumbel>(target, sampling(), own, noise, nullptr, 0, num_chunks(target.vocab));
  __syncthreads();
  const Law law = finish_row<T, false>(target, sampling(), own);
  if (threadIdx.x == 0) {
    row.sampling = sampling();
    row.law = law;
    row.kept = law.kept;
    row.residual = whole_row();
    row.node = law.status == Status::kOk && !row.childless ? request.first_child() : -1;
    row.count = 0;
    row.certain = row.bad = false;
    set_draft(request);
  }
  __syncthreads();
}

// ---- children, by one thread --------------------------------------------------------------------

struct TreeChild {
  int64_t token;
  double p_draft;
  bool repeated;  // the token of a rejected sibling
  bool bad;       // cannot have been drawn: the children end before it
  bool foreign;   // drawn, but no id of the target: p_target = 0, so it is rejected
};

template <class T>
__device__ inline TreeChild child_at(const TreeRequest<T>& request) {
  const TreeRow<T>& row = request.row;
  TreeChild child = {request.token(row.node), 1.0, false, false, false};
  const bool inside = child.token >= 0 && child.token < request.params.target.vocab;
  const bool known = draft_id(request.params, child.token) >= 0;
  const int32_t token = static_cast<int32_t>(child.token);
  child.repeated = (inside || known) && AnyRejected{request.rejected, row.count}(token);
  if (row.drawn) {
    child.p_draft = row.p_first;
    if (row.count > 0) {
      child.p_draft =
          known && !child.repeated ? draft_probability_of(row.draft, request.stats(), token) : 0.0;
    }
  }
  child.bad = row.drawn ? !(child.p_draft > 0.0) : !inside;
  child.foreign = !inside && !child.bad;
  return child;
}

// Looks at the next child, and whether it is rejected: else it is accepted, or there is none. What
// a rejection leaves is for `after_rejection` to sum.
template <class T>
__device__ inline bool rejects_child(const TreeRequest<T>& request) {
  TreeRow<T>& row = request.row;
  if (row.node < 0 || !(row.residual.left > 0.0)) {
    row.node = -1;
    return false;
  }
  const TreeChild child = child_at(request);
  row.bad |= child.bad || child.foreign;
  if (child.bad) {
    row.node = -1;
    return false;
  }
  const int32_t token = static_cast<int32_t>(child.token);
  double p_target = 0.0;
  if (!child.foreign && !child.repeated) {
    p_target = exp(log_probability_of(request.target(), row.sampling, row.law, token));
  }
  const double uniform = request.noise(row.node, Domain::kAccept);
  if (accepts_child(uniform, p_target, child.p_draft, row.residual)) return false;
  request.rejected[row.count++] = {token, row.drawn ? draft_column(row.draft, token) : -1};
  row.removed = child.foreign || child.repeated ? -1 : token;
  row.node = request.next_sibling(row.node);
  if (row.drawn && !row.certain) {
    row.residual.slope = next_slope(row.residual);
    row.residual.left -= child.p_draft;
  }
  return true;
}

// ---- rejections, by the whole block -------------------------------------------------------------

// With a row that is not one-hot.
template <class T>
__device__ inline Pair<T> pair_of(const TreeRequest<T>& request) {
  const TreeVerifyParams& params = request.params;
  const TreeRow<T>& row = request.row;
  const bool plain = params.draft.dtype == params.target.dtype && !params.t2d;
  return pair_of(request.target(), row.draft, plain, row.sampling, row.law, request.own().listed,
                 1.0 / row.residual.slope);
}

// The sum of p_draft without the rejected children.
template <class T>
__device__ inline double draft_sum_left(const TreeRequest<T>& request) {
  SHARED(double, sums, [kWarps]);
  const DraftRow& draft = request.row.draft;
  double sum = 0.0;
  for (int32_t column = threadIdx.x; column < draft.vocab; column += kThreads) {
    const float p_draft = draft_weight(draft.scale, stored_logit(draft, column));
    bool left = p_draft > 0.0f;
    for (int32_t i = 0; left && i < request.row.count; ++i) {
      left = request.rejected[i].column != column;
    }
    if (left) sum += p_draft;
  }
  return block_sum(sum, sums);
}

// The sum of [p_target/s - p_draft]+; its pieces stay in scratch.
template <class T>
__device__ inline double excess_of(const TreeRequest<T>& request) {
  const TreeRow<T>& row = request.row;
  if (row.sampling.argmax) {
    return residual_weight(1.0 / row.residual.slope,
                           draft_probability_of(row.draft, request.stats(), row.law.argmax));
  }
  const Pair<T> pair = pair_of(request);
  sum_pieces(pair, 0, pair.pieces, request.excess(), nullptr);
  __syncthreads();
  return warp_total(request.excess(), pair.pieces);
}

// Rule tree_token: what a rejected child leaves of the row; prepares `replacement`.
template <class T>
__device__ inline void after_rejection(const TreeRequest<T>& request) {
  TreeRow<T>& row = request.row;
  if (row.drawn && !row.certain) {
    if (row.residual.left < kLittleLeft) {
      const double left = draft_sum_left(request);
      if (threadIdx.x == 0) row.residual.left = left;
    }
    const double excess = excess_of(request);
    if (threadIdx.x == 0) row.residual.mass = row.residual.slope * excess;
  } else if (!row.sampling.argmax) {  // whose argmax is never rejected
    const double kept = take_out(request.target(), row.sampling, request.own(), row.law, row.kept,
                                 row.removed, AnyRejected{request.rejected, row.count});
    __syncthreads();  // every thread has read the row
    if (threadIdx.x == 0) {
      row.kept = kept;
      row.residual.mass = kept / row.law.kept;
    }
  }
  if (threadIdx.x == 0 && row.drawn && row.certain) row.residual.left = 0.0;
  __syncthreads();
}

// The token emitted where no child was accepted; -1 where rounding has left nothing of the row.
template <class T>
__device__ inline int32_t replacement(const TreeRequest<T>& request) {
  const TreeRow<T>& row = request.row;
  const double uniform = request.noise(row.at, Domain::kResidual);
  double kept = row.kept;
  int32_t count = row.count;
  if (count > 0 && row.drawn && !row.certain) {
    if (!row.sampling.argmax) {
      const int32_t token = draw_excess(pair_of(request), request.excess(), uniform);
      if (token >= 0) return token;
    }
    kept = row.law.kept;
    count = 0;
  }
  return draw(request.target(), row.sampling, request.own(), row.law, uniform * kept,
              AnyRejected{request.rejected, count});
}

}  // namespace tapout::cuda
