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

  // visit(logit) for this lane's part of a listed group.
  template <class Visit>
  __device__ void each_of(int32_t group, const Visit& visit) const {
    constexpr int kInVector = Elements<T>::kInVector;
    const int32_t first = scratch.listed[group] * kGroup;
#pragma unroll
    for (int i = 0; i < kGroup / 32; i += kInVector) {
      const int32_t column = first + i * 32 + lane_id() * kInVector;
      Vec16Bytes vector = load_vector(row, column);
      if (row.mask) apply_mask(row, column, vector);
#pragma unroll
      for (int k = 0; k < kInVector; ++k) {
        const float z = element<T>(vector, k);
        if (z >= bound) visit(z);
      }
    }
  }

  // visit(logit, home); no collective in it.
  template <class Visit>
  __device__ void each(const Visit& visit) const {
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < count && nearby(); i += kThreads) visit(logit[i], home[i]);
#pragma unroll 1
    for (int32_t group = warp_id(); group < listed && !nearby(); group += kWarps) {
      each_of(group, [&](float z) { visit(z, group); });
    }
  }
};

// ---- histograms ---------------------------------------------------------------------------------

// Where a cutoff is: keys of `range`, of measure `inside`; `above` is that of every key above it.
struct Window {
  KeyRange range;
  uint64_t above;
  uint64_t inside;
};

// Two additions of 32 bits: shared memory has no faster one of 64.
__device__ inline void add_to_bin(uint64_t* bin, uint64_t amount) {
  uint32_t* const word = reinterpret_cast<uint32_t*>(bin);
  const uint32_t low = static_cast<uint32_t>(amount), before = shared_add(word, low);
  const uint32_t high = static_cast<uint32_t>(amount >> 32) + (before + low < low);
  if (high != 0) shared_add(word + 1, high);
}

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
#pragma unroll 8
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  const KeyRange range = window.range;
  each([&](float logit, int32_t) {
    const uint32_t key = order_key(logit + 0.0f);  // -0 becomes +0
    if (key < range.low || key > range.high) return;
    add_to_bin(bins + ((key - range.low) >> shift), amount(logit));
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

// Copies the candidates into shared memory as far as they fit; sets their number. `taken` is 0.
template <class T>
__device__ inline void gather(Candidates<T>& candidates, uint32_t (&taken)[1]) {
  for_listed(candidates.row, candidates.scratch.listed, candidates.listed,
             [&](int32_t batch, const Place&, const LaneChunk<T>& chunk) {
               constexpr int kInGroup = kLaneIds / kChunkGroups;
               uint32_t own = 0;
#pragma unroll
               for (int e = 0; e < kLaneIds; ++e) own += chunk.logit(e) >= candidates.bound;
               if (own == 0) return;
               uint32_t at = shared_add(taken, own);
#pragma unroll
               for (int e = 0; e < kLaneIds; ++e) {
                 const float z = chunk.logit(e);
                 if (!(z >= candidates.bound) || at >= kNearby) continue;
                 candidates.logit[at] = z;
                 candidates.home[at++] = batch * kChunkGroups + e / kInGroup;
               }
             });
  __syncthreads();
  candidates.count = static_cast<int32_t>(taken[0]);
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
