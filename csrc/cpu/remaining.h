// A row's ids one after the other: the most probable, or drawn without replacement. What was taken
// is out of the maxima, sums and masses of its chunk; weights are relative to what is left there.
#pragma once

#include "draw.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Taken {
  int64_t count;
  int32_t column[kMostNodes];
};

inline void load_left(const RowLaw& law, int64_t chunk, const Taken& taken, ChunkBuffer& buffer) {
  load_chunk(law.row, chunk, buffer);
  for (int64_t i = 0; i < taken.count; ++i) {
    if (taken.column[i] / kChunk == chunk) buffer.value[taken.column[i] % kChunk] = -INFINITY;
  }
}

// The kept weights of what is left, relative to the chunk's maximum.
inline void weigh_left(const RowLaw& law, int64_t chunk, ChunkBuffer& buffer) {
  const Vec16 max = set16(chunk_weight_base(law.scratch.chunk[chunk]));
  const Vec16 rate = set16(exponent_rate(law.inv_temperature));
  for (int64_t i = 0; i < buffer.vectors; ++i) {
    const Vec16 z = load16(buffer.value + i * kLanes);
    const Vec16 weight = exp2_16(sub16(z, max), rate);
    store16(buffer.value + i * kLanes, select_ge16(z, set16(law.cutoff), weight, set16(0.0f)));
  }
}

// Takes a column out. `drawn`: out of the masses, which `draw_left` goes by, too.
inline void take(RowLaw& law, Taken& taken, int64_t column, bool drawn) {
  const int64_t home = column / kChunk;
  taken.column[taken.count++] = static_cast<int32_t>(column);
  ChunkBuffer buffer;
  load_left(law, home, taken, buffer);
  law.scratch.chunk[home].max = largest(buffer);
  if (!drawn) return;
  weigh_left(law, home, buffer);
  law.scratch.chunk[home].sum = buffer_sum(buffer);
  law.scratch.mass[home] = chunk_scale(law, home) * law.scratch.chunk[home].sum;
}

// One of the columns that are left by the inverse CDF, -1: no mass is. Call `fill_masses` first.
inline int64_t draw_left(const RowLaw& law, const Taken& taken, double uniform) {
  if (law.one_hot) return taken.count == 0 ? law.argmax : -1;
  return draw_from(law.scratch.mass, num_chunks(law.row.vocab), uniform,
                   [&](int64_t c, ChunkBuffer& buffer) {
                     load_left(law, c, taken, buffer);
                     weigh_left(law, c, buffer);
                   });
}

// The most probable column that is left, the lowest of a tie, -1: none is.
inline int64_t best_left(const RowLaw& law, const Taken& taken) {
  if (law.one_hot) return taken.count == 0 ? law.argmax : -1;
  int64_t home = 0;
  for (int64_t c = 1; c < num_chunks(law.row.vocab); ++c) {
    if (law.scratch.chunk[c].max > law.scratch.chunk[home].max) home = c;
  }
  const float max = law.scratch.chunk[home].max;
  if (max == -INFINITY || !(max >= law.cutoff)) return -1;
  ChunkBuffer buffer;
  load_left(law, home, taken, buffer);
  int64_t at = 0;
  while (at < kChunk - 1 && buffer.value[at] != max) ++at;
  return home * kChunk + at;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
