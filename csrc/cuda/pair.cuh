// Two distributions over one row: [w p_target - p_draft]+ and min(p_target, p_draft). Sums are left
// piece by piece, so that a draw reads one piece again. A piece is a chunk of the row; of a
// filtered row four of its listed groups, outside of which p_target is 0.
#pragma once

#include "drafts.cuh"
#include "draw.cuh"

namespace tapout::cuda {

template <class T>
struct Pair {
  Row<T> row;
  DraftRow draft;
  bool plain;  // the draft's logits can be read as those of the target are: `drafted`
  Row<T> drafted;
  float max;  // p_target(z) = scale 2^((z - max) rate) where z >= cutoff
  float rate;
  float scale;
  float cutoff;
  float factor;           // w, 1 but for `block` and trees
  const int32_t* listed;  // groups of a filtered row, else null
  int32_t groups;
  int32_t pieces;

  __device__ Place place(int32_t piece) const {
    return listed ? place_of_listed(row, listed, groups, piece) : place_of_chunk(piece);
  }
  // Id i of a piece.
  __device__ int32_t id(int32_t piece, int32_t i) const {
    if (!listed) return piece * kChunk + i;
    const int32_t at = piece * kChunkGroups + i / kGroup;
    return at < groups ? listed[at] * kGroup + i % kGroup : row.vocab;
  }
  __device__ float p_target(float logit) const {
    return logit >= cutoff ? weight(logit, max, rate) * scale : 0.0f;
  }
  __device__ float excess(float p_target, float p_draft) const {
    return fmaxf(fmaf(factor, p_target, -p_draft), 0.0f);
  }
};

// Pieces of a row, of which `listed` groups may be kept where it is filtered.
__device__ inline int32_t num_pieces(const RowSampling& sampling, int64_t vocab, int32_t listed) {
  return sampling.filtered() ? ceil_divide(listed, kChunkGroups) : num_chunks(vocab);
}

// Of a target row that is not one-hot, with its law and the list of its scratch. `plain`: see Pair.
template <class T>
__device__ inline Pair<T> pair_of(const Row<T>& row, const DraftRow& draft, bool plain,
                                  const RowSampling& sampling, const Law& law,
                                  const int32_t* listed, double factor) {
  Pair<T> pair = {};
  pair.row = row;
  pair.draft = draft;
  pair.plain = plain;
  pair.drafted = plain_row(static_cast<const T*>(draft.logits), draft.vocab);
  pair.max = static_cast<float>(law.max);
  pair.rate = exponent_rate(inverse_temperature(sampling.temperature));
  pair.scale = 1.0f / static_cast<float>(law.kept);
  pair.cutoff = law.cutoff;
  pair.factor = static_cast<float>(factor);
  pair.listed = sampling.filtered() ? listed : nullptr;
  pair.groups = law.listed;
  pair.pieces = num_pieces(sampling, row.vocab, law.listed);
  return pair;
}

// ---- sums ---------------------------------------------------------------------------------------

struct PairSums {
  float excess = 0.0f;
  float shared = 0.0f;
};

template <class T>
__device__ inline void add_up(const Pair<T>& pair, float target, float drafted, PairSums& sums) {
  const float p_target = pair.p_target(target), p_draft = draft_weight(pair.draft.scale, drafted);
  sums.excess += pair.excess(p_target, p_draft);
  sums.shared += fminf(p_target, p_draft);
}

constexpr int kLaneGroupIds = kLaneIds / kChunkGroups;  // of a lane, in one group

// The draft's logits of a lane's ids in one group, one by one: any map.
template <class D, class T>
__device__ inline void gather_stored(const DraftRow& draft, const Place& place, int group,
                                     float (&logit)[kLaneGroupIds]) {
  const D* from = static_cast<const D*>(draft.logits);
#pragma unroll
  for (int i = 0; i < kLaneGroupIds; ++i) {
    const int32_t column = draft_column(draft, column_of<T>(place, group * kLaneGroupIds + i));
    logit[i] = column >= 0 ? to_f32(from[column]) : -INFINITY;
  }
}

template <class T>
__device__ inline void gather_draft(const DraftRow& draft, const Place& place, int group,
                                    float (&logit)[kLaneGroupIds]) {
  switch (draft.dtype) {
    case DType::kBf16: return gather_stored<Bf16, T>(draft, place, group, logit);
    case DType::kF16: return gather_stored<F16, T>(draft, place, group, logit);
    default: return gather_stored<float, T>(draft, place, group, logit);
  }
}

template <class T>
__device__ inline PairSums sum_gathered(const Pair<T>& pair, const Place& place,
                                        const LaneChunk<T>& target) {
  PairSums sums;
#pragma unroll
  for (int group = 0; group < kChunkGroups; ++group) {
    float drafted[kLaneGroupIds];
    gather_draft<T>(pair.draft, place, group, drafted);
#pragma unroll
    for (int i = 0; i < kLaneGroupIds; ++i) {
      add_up(pair, target.logit(group * kLaneGroupIds + i), drafted[i], sums);
    }
  }
  return sums;
}

// A lane's part of the sums of a piece. Both rows are on their way before one is waited for.
template <class T>
__device__ inline PairSums sum_lane(const Pair<T>& pair, const Place& place) {
  LaneChunk<T> target = load_chunk(pair.row, place);
  if (!pair.plain) {
    if (pair.row.mask) apply_mask(pair.row, place, target);
    return sum_gathered(pair, place, target);
  }
  const LaneChunk<T> drafted = load_chunk(pair.drafted, place);
  if (pair.row.mask) apply_mask(pair.row, place, target);
  PairSums sums;
#pragma unroll
  for (int e = 0; e < kLaneIds; ++e) add_up(pair, target.logit(e), drafted.logit(e), sums);
  return sums;
}

// Pieces [first, last), a warp each. `shared` may be null.
template <class T>
__device__ inline void sum_pieces(const Pair<T>& pair, int32_t first, int32_t last, float* excess,
                                  float* shared) {
  for (int32_t piece = first + warp_id(); piece < last; piece += kWarps) {
    const PairSums lane = sum_lane(pair, pair.place(piece));
    const float total = warp_sum(lane.excess);
    if (lane_id() == 0) excess[piece] = total;
    if (!shared) continue;
    const float common = warp_sum(lane.shared);
    if (lane_id() == 0) shared[piece] = common;
  }
}

// ---- what the sums say --------------------------------------------------------------------------

// By one warp.
__device__ inline double warp_total(const float* sums, int32_t pieces) {
  double total = 0.0;
  for (int32_t piece = lane_id(); piece < pieces; piece += 32) total += load_fresh(sums + piece);
  return warp_sum(total);
}

// A token of the residual by its sums, by the whole block; -1 where there is no mass.
template <class T>
__device__ inline int32_t draw_excess(const Pair<T>& pair, const float* sums, double uniform) {
  const double total = warp_total(sums, pair.pieces);  // the same in every warp
  const Picked<double> piece = pick<double>(pair.pieces, uniform * total, [&](int32_t i) {
    return static_cast<double>(load_fresh(sums + i));
  });
  if (piece.index < 0) return -1;
  const Picked<double> id = pick<double>(kChunk, uniform * total - piece.before, [&](int32_t i) {
    const int32_t column = pair.id(piece.index, i);
    if (column >= pair.row.vocab) return 0.0;
    const float p_target = pair.p_target(logit_at(pair.row, column));
    const float p_draft = draft_weight(pair.draft.scale, draft_logit(pair.draft, column));
    return static_cast<double>(pair.excess(p_target, p_draft));
  });
  return id.index < 0 ? -1 : pair.id(piece.index, id.index);
}

}  // namespace tapout::cuda
