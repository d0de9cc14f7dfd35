// Cutoffs of top-k, top-p and min-p (core/sampling.h) without a sort, by the block that finishes a
// row. Maxima of groups bound the cutoff from below: k groups reach the k-th largest of them. Only
// groups that reach the bound are listed and read again; the logits in them that reach it are the
// candidates, mostly few enough for shared memory. A search is a histogram of their order keys and
// another one of the bin that it ends in. Counts and masses are integers (mass in units of 2^-40),
// so no order changes them.
#pragma once

#include "block.cuh"
#include "row.cuh"
#include "scratch.h"

namespace tapout::cuda {

constexpr float kMassUnit = 0x1p40f;
constexpr uint64_t kSlack = 32;  // groups beyond k that are cheaper to list than to search for

__device__ inline uint64_t mass_units(float weight) {
  return static_cast<uint64_t>(weight * kMassUnit);
}

struct Filtered {
  float cutoff;
  double kept;     // mass, relative to the maximum
  int32_t listed;  // groups
};

// visit(batch, place, chunk) for four listed groups at a time, by each warp.
template <class T, class Visit>
__device__ inline void for_listed(const Row<T>& row, const int32_t* listed, int32_t count,
                                  const Visit& visit) {
  const int32_t batches = ceil_divide(count, kChunkGroups);
  for (int32_t batch = warp_id(); batch < batches; batch += kWarps) {
    const Place place = place_of_listed(row, listed, count, batch);
    LaneChunk<T> chunk = load_chunk(row, place);
    if (row.mask) apply_mask(row, place, chunk);
    visit(batch, place, chunk);
  }
}

// Logits that may be kept, with the place of their group in the list: in shared memory, or where
// they do not fit read again each time.
template <class T>
struct Candidates {
  const Row<T>& row;
  const RowScratch& scratch;
  int32_t listed;
  float bound;
  int32_t count;
  float* logit;  // [kNearby], and the next
  int32_t* home;

  __device__ bool nearby() const { return count <= kNearby; }

  // visit(logit, home); no collective in it.
  template <class Visit>
  __device__ void each(const Visit& visit) const {
    if (nearby()) {
      for (int32_t i = threadIdx.x; i < count; i += kThreads) visit(logit[i], home[i]);
      return;
    }
    for_listed(row, scratch.listed, listed,
               [&](int32_t batch, const Place&, const LaneChunk<T>& chunk) {
                 constexpr int kInGroup = kLaneIds / kChunkGroups;
#pragma unroll
                 for (int e = 0; e < kLaneIds; ++e) {
                   const float z = chunk.logit(e);
                   if (z >= bound) visit(z, batch * kChunkGroups + e / kInGroup);
                 }
               });
  }
};

// ---- histograms ---------------------------------------------------------------------------------

// Where a cutoff is: keys of `range`, of measure `inside`; `above` is that of every key above it.
struct Window {
  KeyRange range;
  uint64_t above;
  uint64_t inside;
};

struct alignas(16) Found {
  uint64_t above;
  uint64_t inside;
  int32_t bin;
};

// The bin that reaches the goal from above, or the lowest with any measure if none does.
__device__ inline Found reaching_bin(const uint64_t (&bins)[kBins], uint64_t above, uint64_t goal) {
  SHARED(uint64_t, sums, [kWarps]);
  SHARED(Found, found, [1]);
  constexpr int kShare = kBins / kThreads;
  const int last = static_cast<int>(kBins) - 1 - static_cast<int>(threadIdx.x) * kShare;
  uint64_t own = 0;
#pragma unroll 8
  for (int i = 0; i < kShare; ++i) own += bins[last - i];
  const Running<uint64_t> running = block_running(own, sums);
  goal = min(goal, above + running.total);
  if (above + running.before < goal && above + running.after >= goal) {
    uint64_t reached = above + running.before;
    int bin = last;
    while (reached + bins[bin] < goal) reached += bins[bin--];
    found[0] = {reached, bins[bin], bin};
  }
  __syncthreads();
  return found[0];
}

// One histogram of a window. each(visit) visits logits, amount(logit) is what one counts.
template <class Each, class Amount>
__device__ inline Window narrowed(const Window& window, int shift, uint64_t goal,
                                  uint64_t (&bins)[kBins], const Each& each, const Amount& amount) {
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  const KeyRange range = window.range;
  each([&](float logit, int32_t) {
    const uint32_t key = order_key(logit + 0.0f);  // -0 becomes +0
    if (key < range.low || key > range.high) return;
    shared_add(bins + ((key - range.low) >> shift), amount(logit));
  });
  __syncthreads();
  const Found found = reaching_bin(bins, window.above, goal);
  return {bin_range(range, shift, found.bin), found.above, found.inside};
}

// The largest logit t with measure{z >= t} >= goal > 0, or the smallest that has any measure.
template <class Each, class Amount>
__device__ inline float largest_reaching(KeyRange range, int precision, uint64_t goal,
                                         uint64_t (&bins)[kBins], const Each& each,
                                         const Amount& amount) {
  Window window = {range, 0, 0};
  int shift;
  do {
    shift = bin_shift(window.range, precision);
    window = narrowed(window, shift, goal, bins, each, amount);
  } while (shift > precision);
  return bin_value(window.range);
}

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
  for (int32_t group = first; group < last; ++group) own += maxima[group] >= bound;
  const Running<int32_t> running = block_running(own, sums);
  int32_t to = running.before;
  for (int32_t group = first; group < last; ++group) {
    if (maxima[group] >= bound) listed[to++] = group;
  }
  __syncthreads();
  return running.total;
}

// Copies the candidates into shared memory as far as they fit; sets their number. `taken` is 0.
template <class T>
__device__ inline void gather(Candidates<T>& candidates, uint32_t (&taken)[1]) {
  candidates.count = kNearby + 1;  // read them from the row
  candidates.each([&](float logit, int32_t home) {
    const uint32_t at = shared_add(taken, 1u);
    if (at >= kNearby) return;
    candidates.logit[at] = logit;
    candidates.home[at] = home;
  });
  __syncthreads();
  candidates.count = static_cast<int32_t>(taken[0]);
}

// ---- what is kept -------------------------------------------------------------------------------

// Leaves the kept mass of every listed group in scratch.masses; their sum, in units.
template <class T>
__device__ inline uint64_t keep_nearby(const Candidates<T>& candidates, float cutoff, float max,
                                       float rate, uint64_t (&bins)[kBins]) {
  for (int32_t i = threadIdx.x; i < candidates.listed; i += kThreads) bins[i] = 0;
  __syncthreads();
  candidates.each([&](float logit, int32_t home) {
    if (logit >= cutoff) shared_add(bins + home, mass_units(weight(logit, max, rate)));
  });
  __syncthreads();
  uint64_t own = 0;
  for (int32_t i = threadIdx.x; i < candidates.listed; i += kThreads) {
    candidates.scratch.masses[i] = bins[i];
    own += bins[i];
  }
  return own;
}

template <class T>
__device__ inline uint64_t keep_far(const Candidates<T>& candidates, float cutoff, float max,
                                    float rate) {
  uint64_t own = 0;
  for_listed(candidates.row, candidates.scratch.listed, candidates.listed,
             [&](int32_t batch, const Place&, const LaneChunk<T>& chunk) {
               constexpr int kInGroup = kLaneIds / kChunkGroups;
#pragma unroll
               for (int g = 0; g < kChunkGroups; ++g) {
                 uint64_t units = 0;
#pragma unroll
                 for (int e = g * kInGroup; e < (g + 1) * kInGroup; ++e) {
                   const float z = chunk.logit(e);
                   if (z >= cutoff) units += mass_units(weight(z, max, rate));
                 }
                 units = warp_sum(units);
                 const int32_t home = batch * kChunkGroups + g;
                 if (lane_id() != 0 || home >= candidates.listed) continue;
                 candidates.scratch.masses[home] = units;
                 own += units;
               }
             });
  return own;
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

template <class T>
__device__ inline float find_cutoff(const Candidates<T>& candidates, const RowSampling& sampling,
                                    float least, float max, double total, uint64_t (&bins)[kBins]) {
  SHARED(uint64_t, sums, [kWarps]);
  constexpr int kPrecision = Elements<T>::kPrecision;
  const float rate = exponent_rate(inverse_temperature(sampling.temperature));
  const auto each = [&](const auto& visit) { candidates.each(visit); };
  const auto mass = [&](float logit) { return mass_units(weight(logit, max, rate)); };
  float cutoff = least;
  double amount = sampling.top_p * total * kMassUnit;
  if (sampling.top_k > 0) {
    cutoff = largest_reaching(key_range(candidates.bound, max, kPrecision), kPrecision,
                              static_cast<uint64_t>(sampling.top_k), bins, each,
                              [](float) { return uint64_t{1}; });
  }
  if (sampling.top_p < 1.0) {
    if (sampling.top_k > 0) {
      uint64_t own = 0;
      candidates.each([&](float z, int32_t) { own += z >= cutoff ? mass(z) : 0; });
      amount = sampling.top_p * static_cast<double>(block_sum(own, sums));
    }
    const float low = fmaxf(cutoff, candidates.bound);
    const uint64_t goal = amount > 1.0 ? static_cast<uint64_t>(ceil(amount)) : 1;
    cutoff = largest_reaching(key_range(low, max, kPrecision), kPrecision, goal, bins, each, mass);
  }
  if (sampling.min_p > 0.0) cutoff = fmaxf(cutoff, min_p_cutoff(candidates, sampling, cutoff, max));
  return cutoff;
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
  SHARED(uint64_t, sums, [kWarps]);
  if (threadIdx.x == 0) taken[0] = 0;
  const GroupMaxima maxima = fetch_maxima(scratch.groups, num_groups(row.vocab), logit);
  const float bound =
      lower_bound(sampling, maxima, row.vocab, max, least, total, Elements<T>::kPrecision, bins);
  const int32_t listed = list_groups(maxima, bound, scratch.listed);
  Candidates<T> candidates = {row, scratch, listed, bound, 0, logit, home};
  gather(candidates, taken);
  const float cutoff = find_cutoff(candidates, sampling, least, max, total, bins);
  const float rate = exponent_rate(inverse_temperature(sampling.temperature));
  const uint64_t own = candidates.nearby() ? keep_nearby(candidates, cutoff, max, rate, bins)
                                           : keep_far(candidates, cutoff, max, rate);
  const double kept = static_cast<double>(block_sum(own, sums)) / kMassUnit;
  return {cutoff, kept, listed};
}

}  // namespace tapout::cuda
