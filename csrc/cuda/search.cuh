// Cutoffs of top-k, top-p and min-p (core/sampling.h) without a sort, by the block that finishes a
// row. Maxima of groups bound the cutoff from below: k groups reach the k-th largest of them. Only
// groups that reach the bound are listed and read again; the cutoff is searched among the logits in
// them that reach it, the candidates.
#pragma once

#include "candidates.cuh"
#include "histogram.cuh"

namespace tapout::cuda {

constexpr uint64_t kSlack = 32;  // groups beyond k that are cheaper to list than to search for

struct Filtered {
  float cutoff;
  double kept;     // mass, relative to the maximum
  int32_t listed;  // groups
};

// ---- bounds -------------------------------------------------------------------------------------

// Maxima of the groups of a row, in shared memory where they fit.
struct GroupMaxima {
  const float* stored;
  const float* nearby;
  int32_t count;

  __device__ float operator[](int32_t group) const {
    return count <= kNearby ? nearby[group] : load_fresh(stored + group);
  }
};

__device__ inline GroupMaxima fetch_maxima(const float* stored, int32_t count,
                                           float (&nearby)[kNearby]) {
  for (int32_t group = threadIdx.x; group < count && count <= kNearby; group += kThreads) {
    nearby[group] = load_fresh(stored + group);
  }
  __syncthreads();
  return {stored, nearby, count};
}

// A limit that k groups reach, and few more; `least` where there are not so many.
__device__ inline float large_maximum(const GroupMaxima& maxima, int64_t k, float least, float max,
                                      int precision, uint64_t (&bins)[kBins]) {
  const uint64_t goal = static_cast<uint64_t>(k);
  if (goal > static_cast<uint64_t>(maxima.count)) return least;
  const auto each = [&](const auto& visit) {
#pragma unroll 1
    for (int32_t group = threadIdx.x; group < maxima.count; group += kThreads) {
      visit(maxima[group], group);
    }
  };
  Window window = {key_range(least, max, precision), 0, 0};
  int shift;
  do {
    shift = bin_shift(window.range, precision);
    window = narrowed(window, shift, goal, bins, each, [](float) { return uint64_t{1}; });
  } while (shift > precision && window.above + window.inside > goal + kSlack);
  return key_value(window.range.low);
}

// Below it lies less than 1 - top_p of the mass: V e^((t - m)/T) <= (1 - top_p) s / e.
__device__ inline float nucleus_bound(const RowSampling& sampling, int32_t vocab, float max,
                                      double total) {
  const double rest = 1.0 - sampling.top_p;
  if (!(sampling.top_p > 0.0)) return max;
  if (!(rest > 1e-3)) return -INFINITY;  // the rounding of sums might matter
  const double offset = log(rest * total / vocab) - 1.0;
  return static_cast<float>(max + offset * sampling.temperature);
}

// z >= m + T ln(min_p), with room for rounding.
__device__ inline float min_p_bound(const RowSampling& sampling, float max) {
  const double span = log(sampling.min_p) * sampling.temperature;
  const float bound = static_cast<float>(max + span * (1.0 + 1e-6));
  return fminf(bound - fabsf(bound) * 1e-6f, max);
}

// A logit that the cutoff is not below.
__device__ inline float lower_bound(const RowSampling& sampling, const GroupMaxima& maxima,
                                    int32_t vocab, float max, float least, double total,
                                    int precision, uint64_t (&bins)[kBins]) {
  if (sampling.top_k > 0) {
    return large_maximum(maxima, sampling.top_k, least, max, precision, bins);
  }
  float bound = least;
  if (sampling.top_p < 1.0) bound = fmaxf(bound, nucleus_bound(sampling, vocab, max, total));
  if (sampling.min_p > 0.0) bound = fmaxf(bound, min_p_bound(sampling, max));
  return fminf(bound, max);
}

// ---- the list -----------------------------------------------------------------------------------

// Lists the groups whose maximum reaches `bound`, in order; how many there are.
__device__ inline int32_t list_groups(const GroupMaxima& maxima, float bound, int32_t* listed) {
  SHARED(int32_t, sums, [kWarps]);
  const int32_t each = ceil_divide(maxima.count, kThreads), first = threadIdx.x * each;
  const int32_t last = min(first + each, maxima.count);
  int32_t own = 0;
#pragma unroll 1
  for (int32_t group = first; group < last; ++group) own += maxima[group] >= bound;
  const Running<int32_t> running = block_running(own, sums);
  int32_t to = running.before;
#pragma unroll 1
  for (int32_t group = first; group < last; ++group) {
    if (maxima[group] >= bound) listed[to++] = group;
  }
  __syncthreads();
  return running.total;
}

// ---- what is kept -------------------------------------------------------------------------------

// Weights are relative to `max`.
struct Scale {
  float max;
  float rate;

  __device__ uint64_t units(float logit) const { return mass_units(weight(logit, max, rate)); }
};

// Leaves the kept mass of every listed group in scratch.masses; their sum, in units.
template <class T>
__device__ inline uint64_t keep_from(const Candidates<T>& candidates, float cutoff,
                                     const Scale& scale, uint64_t (&bins)[kBins]) {
  SHARED(uint64_t, sums, [kWarps]);
  uint64_t* const masses = candidates.scratch.masses;
  uint64_t own = 0;
  if (candidates.nearby()) {  // then no more groups than candidates
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < candidates.listed; i += kThreads) bins[i] = 0;
    __syncthreads();
    candidates.each([&](float logit, int32_t home) {
      if (logit >= cutoff) add_to_bin(bins + home, scale.units(logit));
    });
    __syncthreads();
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < candidates.listed; i += kThreads) own += masses[i] = bins[i];
  }
#pragma unroll 1
  for (int32_t group = warp_id(); group < candidates.listed && !candidates.nearby();
       group += kWarps) {
    uint64_t units = 0;
    candidates.each_of(group, [&](float z) { units += z >= cutoff ? scale.units(z) : 0; });
    units = warp_sum(units);
    if (lane_id() != 0) continue;
    masses[group] = units;
    own += units;
  }
  return block_sum(own, sums);
}

// The smallest candidate from `cutoff` on with e^((z - m)/T) >= min_p; the maximum always counts.
template <class T>
__device__ inline float min_p_cutoff(const Candidates<T>& candidates, const RowSampling& sampling,
                                     float cutoff, float max) {
  SHARED(uint32_t, least, [kWarps]);
  const double inverse = inverse_temperature(sampling.temperature), limit = log(sampling.min_p);
  uint32_t own = order_key(max);
  candidates.each([&](float logit, int32_t) {
    const bool reaches = (static_cast<double>(logit) - max) * inverse >= limit;
    if (reaches && logit >= cutoff) own = min(own, order_key(logit));
  });
  return key_value(block_min(own, least));
}

// The cutoff of a row that a filter applies to; its list and masses stay in scratch. `least` is its
// smallest finite logit, `total` its mass before the filters.
template <class T>
__device__ inline Filtered filter_row(const Row<T>& row, const RowSampling& sampling,
                                      const RowScratch& scratch, float max, float least,
                                      double total) {
  SHARED(uint64_t, bins, [kBins]);
  SHARED(float, logit, [kNearby]);
  SHARED(int32_t, home, [kNearby]);
  SHARED(uint32_t, taken, [1]);
  constexpr int kPrecision = Elements<T>::kPrecision;
  if (threadIdx.x == 0) taken[0] = 0;
  const GroupMaxima maxima = fetch_maxima(scratch.groups, num_groups(row.vocab), logit);
  const float bound = lower_bound(sampling, maxima, row.vocab, max, least, total, kPrecision, bins);
  const int32_t listed = list_groups(maxima, bound, scratch.listed);
  Candidates<T> candidates = {row, scratch, listed, bound, 0, logit, home};
  gather(candidates, taken);
  const Scale scale = {max, exponent_rate(inverse_temperature(sampling.temperature))};
  float cutoff = least;
  double units = total * kMassUnit;
#pragma unroll 1
  for (int stage = 0; stage < 2; ++stage) {  // top-k by count, then top-p by mass
    const bool by_mass = stage == 1;
    const bool applies = by_mass ? sampling.top_p < 1.0 : sampling.top_k > 0;
    if (applies) {
      const double amount = by_mass ? ceil(sampling.top_p * units) : sampling.top_k;
      cutoff = largest_reaching(
          key_range(fmaxf(cutoff, bound), max, kPrecision), kPrecision,
          amount > 1.0 ? static_cast<uint64_t>(amount) : 1, bins,
          [&](const auto& visit) { candidates.each(visit); },
          [&](float z) { return by_mass ? scale.units(z) : uint64_t{1}; });
    }
    if (by_mass && sampling.min_p > 0.0) {
      cutoff = fmaxf(cutoff, min_p_cutoff(candidates, sampling, cutoff, max));
    }
    if (by_mass || (applies && sampling.top_p < 1.0)) {
      units = static_cast<double>(keep_from(candidates, cutoff, scale, bins));
    }
  }
  return {cutoff, units / kMassUnit, listed};
}

}  // namespace tapout::cuda
