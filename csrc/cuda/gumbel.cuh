// The gumbel rule (drafter-invariant sampling, 2408.07978): the argmax of z/T + G over the kept
// ids, the lowest on ties. Noise belongs to a target id at a position, so that a draft and its
// target share it. Here scores are in powers of two, relative to a maximum:
//   s = (z - m) log2(e)/T - log2(y),  y = -ln(1 - w) >= w,  so  s <= (z - m) log2(e)/T - log2(w)
// The bound is cheap; y is for the few that it leaves. A chunk's winner is found in f32, its error
// far below what contract 7 calls a near tie; chunks are compared in f64.
#pragma once

#include "../core/rng.h"
#include "law.cuh"

namespace tapout::cuda {

// Where the noise of a row is.
struct Noise {
  int64_t seed;
  int64_t position;
};

constexpr float kBoundError = 1e-4f;  // of a bound, in powers of two: more than it rounds

__device__ inline uint32_t word_of(const Noise& noise, int32_t id) {
  const PhiloxBlock block = gumbel_block(noise.seed, noise.position, id >> 2);
  const uint32_t low = id & 1 ? block.word[1] : block.word[0];
  const uint32_t high = id & 1 ? block.word[3] : block.word[2];
  return id & 2 ? high : low;
}

// Of ids column .. column + 3; column is a multiple of 4.
template <class T>
__device__ inline PhiloxBlock words_at(const Row<T>& row, const Noise& noise, int32_t column) {
  if (!row.d2t) return gumbel_block(noise.seed, noise.position, column >> 2);
  PhiloxBlock words = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i >= row.vocab) continue;
    words.word[i] = word_of(noise, row.d2t[column + i]);
  }
  return words;
}

// -log2(y), by the series of y where w is small.
__device__ inline float noise_exponent(uint32_t word) {
  const float w = (static_cast<float>(word) + 0.5f) * 0x1p-32f;
  const float rest = fmaxf((static_cast<float>(~word) + 0.5f) * 0x1p-32f, 0x1p-24f);
  float series = 1.0f / 10;
#pragma unroll
  for (int i = 9; i > 0; --i) series = fmaf(series, w, 1.0f / i);
  const float y = w < 0.25f ? w * series : static_cast<float>(-kLn2) * log2_approx(rest);
  return -log2_approx(y);
}

__device__ inline void forget(Place& place, LaneLogits& lane) {
#pragma unroll
  for (int g = 0; g < kChunkGroups; ++g) {
    place.group[g] = static_cast<int32_t>(forgotten(place.group[g]));
  }
#pragma unroll
  for (int e = 0; e < kLaneIds; ++e) lane.z[e] = float_of_bits(forgotten(bits_of_float(lane.z[e])));
}

// The best element of a lane's part of a chunk.
struct LaneBest {
  float bound = -INFINITY;
  float second = -INFINITY;  // bound of the next best
  float score = -INFINITY;
  float logit = -INFINITY;
  int32_t column = 0x7FFFFFFF;
  uint32_t word = 0;
};

__device__ inline void offer_bound(LaneBest& best, float bound, float logit, int32_t column,
                                   uint32_t word) {
  const bool better = bound > best.bound;
  best.second = fmaxf(best.second, better ? best.bound : bound);
  if (!better) return;
  best.bound = bound;
  best.logit = logit;
  best.column = column;
  best.word = word;
}

// `start`: (z - m) log2(e)/T.
__device__ inline void offer_score(LaneBest& best, float start, float logit, int32_t column,
                                   uint32_t word) {
  const float score = start + noise_exponent(word);
  if (!(score > best.score)) return;  // columns ascend: a tie stays with the first
  best.score = score;
  best.logit = logit;
  best.column = column;
}

// The best of a chunk, the same in every lane; `base` and `rate` as in weight(). Ids below the
// cutoff do not take part.
template <class T>
__device__ inline ChunkWinner best_of_chunk(const Row<T>& row, const Noise& noise, Place place,
                                            LaneLogits lane, float base, float rate, float cutoff) {
  LaneBest best;
  float top = INFINITY;
#pragma unroll 1
  for (uint32_t pass = 0; pass < 2; ++pass) {
    forget(place, lane);  // the words of a chunk are too many to keep: the second pass has its own
#pragma unroll
    for (int e = 0; e < kLaneIds; e += 4) {
      const int32_t column = column_of<T>(place, e);
      const PhiloxBlock words = words_at(row, noise, column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float z = lane.z[e + i], start = (z - base) * rate;
        const float bound = start + 32.0f - log2_approx(static_cast<float>(words.word[i]) + 0.5f);
        if (!(z >= cutoff)) continue;
        if (pass == 0) {
          offer_bound(best, bound, z, column + i, words.word[i]);
        } else if (bound >= top - kBoundError) {
          offer_score(best, start, z, column + i, words.word[i]);
        }
      }
    }
    if (pass == 1) break;
    if (best.bound > -INFINITY) {
      best.score = (best.logit - base) * rate + noise_exponent(best.word);
    }
    top = key_value(warp_max(order_key(best.score)));
    // Only where a lane has another element that may win are they all looked at.
    if (warp_ballot(best.second >= top - kBoundError) == 0 || top == -INFINITY) break;
    best.score = -INFINITY;
    best.column = 0x7FFFFFFF;
  }
  top = key_value(warp_max(order_key(best.score)));
  const bool tied = best.score == top && top > -INFINITY;
  const uint32_t column = warp_min(tied ? best.column : 0x7FFFFFFF);
  const int home = __ffs(warp_ballot(tied && static_cast<uint32_t>(best.column) == column));
  const float logit = shuffle_from(best.logit, home > 0 ? home - 1 : 0);
  return {logit, home > 0 ? static_cast<int32_t>(column) : -1};
}

// A column with its exact score.
struct Winner {
  double score;
  int32_t column;  // -1: none
};

__device__ inline Winner no_winner() { return {-INFINITY, -1}; }

__device__ inline Winner better(const Winner& left, const Winner& right) {
  if (left.score != right.score) return left.score > right.score ? left : right;
  return right.column >= 0 && right.column < left.column ? right : left;
}

template <class T>
__device__ inline Winner exact(const Row<T>& row, const Noise& noise, double inv_temperature,
                               const ChunkWinner& winner) {
  if (winner.column < 0) return no_winner();
  const uint32_t word = word_of(noise, target_id(row, winner.column));
  return {winner.logit * inv_temperature + gumbel_noise(word), winner.column};
}

__device__ inline Winner block_winner(Winner winner) {
  SHARED(Winner, winners, [kWarps]);
  for (int distance = 16; distance > 0; distance /= 2) {
    const double score = shuffle_xor(winner.score, distance);
    winner = better(winner, {score, shuffle_xor(winner.column, distance)});
  }
  if (lane_id() == 0) winners[warp_id()] = winner;
  __syncthreads();
  winner = winners[0];
  for (int warp = 1; warp < kWarps; ++warp) winner = better(winner, winners[warp]);
  return winner;
}

// The best kept column of this warp's share of the list.
template <class T>
__device__ inline Winner listed_winner(const Row<T>& row, const RowSampling& sampling,
                                       const RowScratch& scratch, const Law& law,
                                       const Noise& noise) {
  const double inverse = inverse_temperature(sampling.temperature);
  Winner winner = no_winner();
  for_listed(row, scratch.listed, law.listed,
             [&](int32_t, const Place& place, const LaneChunk<T>& chunk) {
               const ChunkWinner best =
                   best_of_chunk(row, noise, place, LaneLogits(chunk), static_cast<float>(law.max),
                                 exponent_rate(inverse), law.cutoff);
               winner = better(winner, exact(row, noise, inverse, best));
             });
  return winner;
}

// The column that wins; by the whole block.
template <class T>
__device__ inline int32_t draw_gumbel(const Row<T>& row, const RowSampling& sampling,
                                      const RowScratch& scratch, const Law& law,
                                      const Noise& noise) {
  if (sampling.argmax) return law.argmax;
  if (sampling.filtered()) {
    return block_winner(listed_winner(row, sampling, scratch, law, noise)).column;
  }
  const double inverse = inverse_temperature(sampling.temperature);
  Winner winner = no_winner();
  for (int32_t c = threadIdx.x; c < num_chunks(row.vocab); c += kThreads) {
    winner = better(winner, exact(row, noise, inverse, load_fresh(scratch.winners + c)));
  }
  return block_winner(winner).column;
}

}  // namespace tapout::cuda
