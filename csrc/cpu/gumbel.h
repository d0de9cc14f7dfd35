// The gumbel rule (drafter-invariant sampling, 2408.07978): the token is the argmax of z/T + G over
// the kept ids, the lowest on ties. The noise belongs to a target id at a position (core/rng.h), so
// that a draft and its target share it.
//   G > g iff w < 1 - e^(-e^(-g)), which is below e^(-g): with the best score so far, s, an entry
//   whose word is not below 2^32 e^(z/T - s) cannot win. Random words are compared with that limit,
//   for the maximum of a chunk, before any noise is computed; a chunk with m/T + 23 < s needs none.
// Scores are exact f64 and the tests above only err on the safe side: no order or thread matters.
#pragma once

#include "law.h"
#include "philox8.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr double kLargestNoise = 23.0;
constexpr int64_t kBlockIds = 4;  // target ids that share a Philox block

struct Noise {
  int64_t seed;
  int64_t position;
  GumbelStream stream;

  Noise(int64_t seed_, int64_t position_)
      : seed(seed_), position(position_), stream(seed_, position_) {}

  double score(const RowLaw& law, int64_t column, float logit) const {
    return logit * law.inv_temperature +
           gumbel_noise(gumbel_word(seed, position, target_id(law.row, column)));
  }
};

struct Winner {
  double score;
  int64_t column;  // -1: none yet
};

inline Winner better(Winner left, Winner right) {
  if (left.score != right.score) return left.score > right.score ? left : right;
  return left.column < right.column ? left : right;
}

// How far the logarithm of w may reach for an entry of this logit to win, rounding allowed for.
inline double reach(const RowLaw& law, const Winner& best, double logit) {
  const double level = logit * law.inv_temperature;
  return level - best.score + 1e-9 + 0x1p-49 * (fabs(level) + fabs(best.score));
}

// Words above this cannot win.
inline uint32_t word_limit(double reach) {
  const double limit = exp(reach) * 0x1p32 + 1.0;
  return limit < 4294967295.0 ? static_cast<uint32_t>(limit) : 0xFFFFFFFFu;
}

inline void try_entry(const RowLaw& law, const Noise& noise, int64_t column, float logit,
                      uint32_t word, Winner& best) {
  if (!(logit >= law.cutoff) || logit == -INFINITY) return;
  const int exponent = 30 - __builtin_clzll(2 * uint64_t{word} + 1);  // w >= 2^exponent
  if (best.column >= 0 && exponent * kLn2 > reach(law, best, logit)) return;
  best = better(best, {noise.score(law, column, logit), column});
}

// Columns [0, n) of a chunk in groups whose blocks are computed at once.
inline void try_blocks(const RowLaw& law, const Noise& noise, const ChunkBuffer& chunk,
                       int64_t begin, int64_t n, uint32_t limit, Winner& best) {
  alignas(64) uint64_t word[8];
  for (int64_t group = 0; group < n; group += 8 * kBlockIds) {
    const uint64_t first = static_cast<uint64_t>(begin + group) / kBlockIds;
    const Philox8 random = philox8(iota8(first), noise.stream);
    for (int64_t j = 0; j < kBlockIds; ++j) {
      uint32_t hits = at_most8(random.word[j], limit);
      if (hits == 0) continue;
      store8(word, random.word[j]);
      for (; hits != 0; hits &= hits - 1) {
        const int lane = __builtin_ctz(hits);
        const int64_t i = group + lane * kBlockIds + j;
        const uint32_t mine = static_cast<uint32_t>(word[lane]);
        if (i < n) try_entry(law, noise, begin + i, chunk.value[i], mine, best);
      }
    }
  }
}

// With a draft vocabulary the ids of neighbours lie anywhere: a block for each.
inline void try_ids(const RowLaw& law, const Noise& noise, const ChunkBuffer& chunk, int64_t begin,
                    int64_t n, uint32_t limit, Winner& best) {
  uint64_t block[8] = {}, word[4][8];
  for (int64_t group = 0; group < n; group += 8) {
    const int64_t some = n - group < 8 ? n - group : 8;
    for (int64_t i = 0; i < some; ++i) {
      block[i] = static_cast<uint64_t>(target_id(law.row, begin + group + i)) / kBlockIds;
    }
    const Philox8 random = philox8(load8(block), noise.stream);
    for (int j = 0; j < 4; ++j) store8(word[j], random.word[j]);
    for (int64_t i = 0; i < some; ++i) {
      const int64_t column = begin + group + i;
      const uint32_t mine =
          static_cast<uint32_t>(word[target_id(law.row, column) & (kBlockIds - 1)][i]);
      if (mine <= limit) try_entry(law, noise, column, chunk.value[group + i], mine, best);
    }
  }
}

inline void try_chunk(const RowLaw& law, const Noise& noise, int64_t c, Winner& best) {
  const float max = law.scratch.chunk[c].max;
  if (max == -INFINITY || max < law.cutoff) return;
  uint32_t limit = 0xFFFFFFFFu;
  if (best.column >= 0) {
    const double span = reach(law, best, max);
    if (span < -kLargestNoise) return;
    limit = word_limit(span);
  }
  ChunkBuffer buffer;
  load_chunk(law.row, c, buffer);
  const int64_t begin = c * kChunk, rest = law.row.vocab - begin, n = rest < kChunk ? rest : kChunk;
  const auto attempt = law.row.d2t ? try_ids : try_blocks;
  attempt(law, noise, buffer, begin, n, limit, best);
}

// The column that wins. Overwrites scratch.mass.
inline int64_t draw_gumbel(RowLaw& law, int64_t seed, int64_t position, const Team& team) {
  if (law.one_hot) return law.argmax;
  const Noise noise(seed, position);
  double* found = law.scratch.mass;
  const int64_t chunks = num_chunks(law.row.vocab);
  for (int64_t c = 0; c < chunks; ++c) found[c] = -1.0;
  for_each_piece(law, team, [&](int64_t begin, int64_t end) {
    Winner best = {-INFINITY, -1};
    for (int64_t c = begin; c < end; ++c) try_chunk(law, noise, c, best);
    found[begin] = static_cast<double>(best.column);
  });
  Winner best = {-INFINITY, -1};
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t column = static_cast<int64_t>(found[c]);
    if (column < 0) continue;
    const Winner other = {noise.score(law, column, logit_at(law.row, column)), column};
    best = best.column < 0 ? other : better(best, other);
  }
  return best.column;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
