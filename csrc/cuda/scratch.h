// What is kept of the rows of one launch, carved from one block of bytes: 16 bytes for each chunk;
// with filters 16 more for each group; with gumbel 8 more for each chunk.
#pragma once

#include "../core/params.h"
#include "sizes.h"

namespace tapout::cuda {

// A chunk: `sum` and `dev` (in powers of two: D / ln 2) are relative to `max`; a NaN or +inf logit
// makes `sum` NaN. `min` is the smallest finite logit, +inf if there is none.
struct alignas(16) Record {
  float max;
  float sum;
  float dev;
  float min;
};

// A chunk as it came, without mask and at temperature 1.
struct alignas(8) RawRecord {
  float max;
  float sum;
};

// The best column of a chunk under the gumbel rule, -1 if every logit is -inf.
struct alignas(8) ChunkWinner {
  float logit;
  int32_t column;
};

// Of one row; null where it was not asked for.
struct RowScratch {
  Record* records;       // [chunks]
  float* groups;         // [groups] maxima
  int32_t* listed;       // [groups] ascending: groups that may hold kept logits
  uint64_t* masses;      // [groups] kept mass of each listed group, in units of 2^-40
  ChunkWinner* winners;  // [chunks]
  RawRecord* raw;        // [chunks]
};

struct RowsScratch {
  RowScratch first;  // of row 0
  int64_t chunks;    // of one row
  int64_t groups;

  TAPOUT_HD RowScratch row(int64_t i) const {
    return {first.records + i * chunks,
            first.groups ? first.groups + i * groups : nullptr,
            first.listed ? first.listed + i * groups : nullptr,
            first.masses ? first.masses + i * groups : nullptr,
            first.winners ? first.winners + i * chunks : nullptr,
            first.raw ? first.raw + i * chunks : nullptr};
  }
};

// Hands out parts of a workspace; of none (null) it only counts their bytes.
struct Carver {
  char* bytes;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    char* at = bytes ? bytes + used : nullptr;
    used += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return reinterpret_cast<T*>(at);
  }
};

struct Wanted {
  bool filters;
  bool gumbel;
  bool raw;
};

inline Wanted wanted_by(const Sampling& sampling, Rule rule) {
  const bool given = sampling.top_k || sampling.top_p || sampling.min_p;
  return {rule != Rule::kGreedy && given, rule == Rule::kGumbel, false};
}

inline RowsScratch carve(Carver& carver, int64_t rows, int64_t vocab, Wanted wanted) {
  RowsScratch scratch = {};
  scratch.chunks = num_chunks(vocab);
  scratch.groups = num_groups(vocab);
  const int64_t chunks = rows * scratch.chunks, groups = rows * scratch.groups;
  scratch.first.records = carver.take<Record>(chunks);
  if (wanted.filters) {
    scratch.first.groups = carver.take<float>(groups);
    scratch.first.listed = carver.take<int32_t>(groups);
    scratch.first.masses = carver.take<uint64_t>(groups);
  }
  if (wanted.gumbel) scratch.first.winners = carver.take<ChunkWinner>(chunks);
  if (wanted.raw) scratch.first.raw = carver.take<RawRecord>(chunks);
  return scratch;
}

}  // namespace tapout::cuda
