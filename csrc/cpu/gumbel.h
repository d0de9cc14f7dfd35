// The gumbel rule (drafter-invariant sampling, 2408.07978): the token is the argmax of z/T + G over
// the kept ids, the lowest on ties. The noise belongs to a target id at a position, so that a draft
// and its target share it.
//   w = (word + 1/2) 2^-32, at most 1 - 2^-24;  G = -ln(-log1p(-w));  a small w makes a large G
#pragma once

#include "../core/rng.h"
#include "law.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// The column that wins.
inline int64_t draw_gumbel(RowLaw& law, int64_t seed, int64_t position, const Team&) {
  if (law.one_hot) return law.argmax;
  ChunkBuffer buffer;
  double best = -INFINITY;
  int64_t winner = -1;
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) {
    if (law.scratch.chunk[c].max == -INFINITY || law.scratch.chunk[c].max < law.cutoff) continue;
    load_chunk(law.row, c, buffer);
    for (int64_t i = 0; i < kChunk && c * kChunk + i < law.row.vocab; ++i) {
      if (buffer.value[i] == -INFINITY || buffer.value[i] < law.cutoff) continue;
      const int64_t column = c * kChunk + i;
      const double noise = gumbel_noise(gumbel_word(seed, position, target_id(law.row, column)));
      const double score = buffer.value[i] * law.inv_temperature + noise;
      if (score > best) {
        best = score;
        winner = column;
      }
    }
  }
  return winner;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
