// Cutoffs of top-k, top-p and min-p (core/sampling.h). What cannot matter is not looked at:
//   top-k: below the k-th largest chunk maximum, which k logits reach
//   top-p: below t with V e^((t-m)/T) <= (1 - top_p) s / e, where too little mass lies
#pragma once

#include "search.h"

namespace tapout {
inline namespace TAPOUT_ISA {

inline Window window_from(const RowLaw& law, float low, double population) {
  const float max = static_cast<float>(law.moments.max);
  return {key_range(low, max, key_precision(law.row.dtype)), 0, population};
}

inline float smallest_finite(const RowLaw& law) {
  float least = INFINITY;
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) {
    const float min = law.scratch.chunk[c].min;
    least = min < least ? min : least;
  }
  return least;
}

// The k-th largest chunk maximum, which is at least `low`.
inline float large_maximum(const RowLaw& law, int64_t k, float low) {
  const int64_t chunks = num_chunks(law.row.vocab);
  KeySearch search = {order_key(low), order_key(static_cast<float>(law.moments.max))};
  while (search.low < search.high) {
    const uint32_t probe = search_probe(search);
    const float limit = key_value(probe);
    int64_t count = 0;
    for (int64_t c = 0; c < chunks; ++c) count += law.scratch.chunk[c].max >= limit;
    search = search_next(search, probe, count >= k);
  }
  return key_value(search.low);
}

inline float top_k_cutoff(const RowLaw& law, int64_t k, float low, const Team& team) {
  double population = static_cast<double>(law.row.vocab);
  if (num_chunks(law.row.vocab) >= k) {
    low = large_maximum(law, k, low);
    population = kFew;  // about k
  }
  return largest_reaching<Measure::kCount>(law, window_from(law, low, population),
                                           static_cast<double>(k), team);
}

// `mass`: of the `population` logits that top-k kept, down to `low`.
inline float top_p_cutoff(const RowLaw& law, double top_p, double mass, float low,
                          double population, const Team& team) {
  if (!(top_p > 0.0)) return static_cast<float>(law.moments.max);
  const double rest = 1.0 - top_p;
  if (rest > 1e-3) {  // enough for the rounding of sums not to matter
    const double offset = log(rest * mass / static_cast<double>(law.row.vocab)) - 1.0;
    const float bound = static_cast<float>(law.moments.max + offset / law.inv_temperature);
    low = bound > low ? bound : low;
  }
  return largest_reaching<Measure::kMass>(law, window_from(law, low, population),
                                          top_p * mass * kMassUnit, team);
}

// The smallest logit with e^((z - m)/T) >= min_p; the maximum always counts.
inline float min_p_cutoff(const RowLaw& law, double min_p, float low) {
  const double max = law.moments.max, inverse = law.inv_temperature;
  if (reaches(low, max, inverse, min_p)) return low;
  KeySearch search = {order_key(low), order_key(static_cast<float>(max))};
  while (search.high - search.low > 1) {  // low does not reach, high does
    const uint32_t probe = search.low + (search.high - search.low) / 2;
    (reaches(key_value(probe), max, inverse, min_p) ? search.high : search.low) = probe;
  }
  const float limit = key_value(search.high);
  float least = static_cast<float>(max);
  ChunkBuffer buffer;
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) {
    const ChunkStats& chunk = law.scratch.chunk[c];
    if (chunk.max < limit || chunk.min >= least) continue;
    float found = chunk.min;
    if (found < limit) {
      load_chunk(law.row, c, buffer);
      found = smallest_from(buffer, limit);
    }
    least = found < least ? found : least;
  }
  return least;
}

inline float find_cutoff(const RowLaw& law, const RowSampling& sampling, const Team& team) {
  float cutoff = smallest_finite(law);
  double mass = law.moments.sum, population = static_cast<double>(law.row.vocab);
  if (sampling.top_k > 0) {
    cutoff = top_k_cutoff(law, sampling.top_k, cutoff, team);
    population = static_cast<double>(sampling.top_k);
    if (sampling.top_p < 1.0) mass = keep_from(law, cutoff, team);
  }
  if (sampling.top_p < 1.0) {
    cutoff = top_p_cutoff(law, sampling.top_p, mass, cutoff, population, team);
  }
  if (sampling.min_p > 0.0) cutoff = min_p_cutoff(law, sampling.min_p, cutoff);
  return cutoff;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
