// Inverse CDF (core/sampling.h) by pieces: the masses left in scratch tell the piece, a chunk or a
// listed group of a filtered row, and only that one is read again. By the whole block.
#pragma once

#include "law.cuh"

namespace tapout::cuda {

constexpr int kPickedAtOnce = 4;  // masses of a thread that stay in registers

// One of a sequence of masses; index -1: there is no mass at all.
template <class V>
struct Picked {
  int32_t index;
  V before;  // mass of those before it
};

// Which threads pass the target, and which have any mass.
struct Votes {
  uint32_t passes;
  uint32_t positive;
};

// The first thread that passes the target, else the last with any mass, else -1.
__device__ inline int32_t elect(bool passes, bool positive) {
  SHARED(Votes, votes, [kWarps]);
  const Votes mine = {warp_ballot(passes), warp_ballot(positive)};
  if (lane_id() == 0) votes[warp_id()] = mine;
  __syncthreads();
  int32_t chosen = -1;
  for (int warp = 0; warp < kWarps; ++warp) {
    const uint32_t positives = votes[warp].positive;
    if (positives != 0) chosen = warp * 32 + 31 - __clz(positives);
  }
  for (int warp = kWarps - 1; warp >= 0; --warp) {
    const uint32_t passing = votes[warp].passes;
    if (passing != 0) chosen = warp * 32 + __ffs(passing) - 1;
  }
  return chosen;
}

// The first index whose running mass passes `target`, ascending; where rounding finds none, the
// last of positive mass. mass_of(index) may be asked twice.
template <class V, class MassOf>
__device__ inline Picked<V> pick(int32_t count, V target, const MassOf& mass_of) {
  SHARED(V, sums, [kWarps]);
  SHARED(Picked<V>, picked, [1]);
  const int32_t each = ceil_divide(count, kThreads), first = threadIdx.x * each;
  const int32_t last = min(first + each, count);
  V held[kPickedAtOnce];
  V own = V(0);
#pragma unroll
  for (int k = 0; k < kPickedAtOnce; ++k) {
    held[k] = first + k < last ? mass_of(first + k) : V(0);
    own += held[k];
  }
#pragma unroll 1
  for (int32_t i = first + kPickedAtOnce; i < last; ++i) own += mass_of(i);
  const Running<V> running = block_running(own, sums);
  const bool positive = own > V(0);
  const int32_t chosen = elect(positive && running.after > target, positive);
  if (chosen == static_cast<int32_t>(threadIdx.x)) {
    Picked<V> here = {-1, running.before};
    V total = running.before;
    const auto step = [&](V mass, int32_t index) {
      if (!(mass > V(0)) || (here.index >= 0 && total > target)) return;
      here = {index, total};
      total += mass;
    };
#pragma unroll
    for (int k = 0; k < kPickedAtOnce; ++k) step(held[k], first + k);
#pragma unroll 1
    for (int32_t i = first + kPickedAtOnce; i < last; ++i) step(mass_of(i), i);
    picked[0] = here;
  }
  if (chosen < 0 && threadIdx.x == 0) picked[0] = {-1, V(0)};
  __syncthreads();
  return picked[0];
}

__device__ inline double chunk_scale(const RowSampling& sampling, const Law& law, float max) {
  return exp((max - law.max) * inverse_temperature(sampling.temperature));
}

__device__ inline double chunk_mass(const RowSampling& sampling, const RowScratch& scratch,
                                    const Law& law, int32_t chunk) {
  const Record record = load_fresh(scratch.records + chunk);
  return chunk_scale(sampling, law, record.max) * record.sum;
}

// Columns that were taken out of the masses in scratch: see take_out().
struct Nothing {
  __device__ bool operator()(int32_t) const { return false; }
};

struct OneColumn {
  int32_t column;
  __device__ bool operator()(int32_t id) const { return id == column; }
};

// Of an unfiltered row.
template <class T, class Without>
__device__ inline int32_t draw_from_chunks(const Row<T>& row, const RowSampling& sampling,
                                           const RowScratch& scratch, const Law& law, double target,
                                           const Without& without) {
  const Picked<double> chunk = pick<double>(num_chunks(row.vocab), target, [&](int32_t c) {
    return chunk_mass(sampling, scratch, law, c);
  });
  if (chunk.index < 0) return -1;
  const float rate = exponent_rate(inverse_temperature(sampling.temperature));
  const float max = load_fresh(scratch.records + chunk.index).max;
  const double scale = chunk_scale(sampling, law, max);
  const int32_t begin = chunk.index * kChunk;
  const Picked<double> id = pick<double>(kChunk, target - chunk.before, [&](int32_t i) {
    if (without(begin + i)) return 0.0;
    return scale * weight(logit_at(row, begin + i), base_of(max), rate);
  });
  return id.index < 0 ? -1 : begin + id.index;
}

// Of a filtered row.
template <class T, class Without>
__device__ inline int32_t draw_from_groups(const Row<T>& row, const RowSampling& sampling,
                                           const RowScratch& scratch, const Law& law, double target,
                                           const Without& without) {
  const uint64_t units = static_cast<uint64_t>(target * kMassUnit);
  const Picked<uint64_t> group =
      pick<uint64_t>(law.listed, units, [&](int32_t i) { return scratch.masses[i]; });
  if (group.index < 0) return -1;
  const float rate = exponent_rate(inverse_temperature(sampling.temperature));
  const float max = static_cast<float>(law.max);
  const int32_t begin = scratch.listed[group.index] * kGroup;
  const Picked<uint64_t> id = pick<uint64_t>(kGroup, units - group.before, [&](int32_t i) {
    const float z = logit_at(row, begin + i);
    const bool counts = z >= law.cutoff && !without(begin + i);
    return counts ? mass_units(weight(z, max, rate)) : uint64_t{0};
  });
  return id.index < 0 ? -1 : begin + id.index;
}

// The column in which the running kept mass passes `target` (u times the mass); -1 without any.
template <class T, class Without>
__device__ inline int32_t draw(const Row<T>& row, const RowSampling& sampling,
                               const RowScratch& scratch, const Law& law, double target,
                               const Without& without) {
  if (sampling.argmax) return law.argmax;
  return sampling.filtered() ? draw_from_groups(row, sampling, scratch, law, target, without)
                             : draw_from_chunks(row, sampling, scratch, law, target, without);
}

template <class T, class Without>
__device__ inline double take_out_of_chunk(const Row<T>& row, const RowSampling& sampling,
                                           const RowScratch& scratch, const Law& law,
                                           int32_t column, const Without& without) {
  SHARED(double, sums, [kWarps]);
  SHARED(double, totals, [kWarps]);
  const int32_t home = column / kChunk;
  const float rate = exponent_rate(inverse_temperature(sampling.temperature));
  const float base = base_of(load_fresh(scratch.records + home).max);
  double sum = 0.0;
  for (int32_t i = threadIdx.x; i < kChunk; i += kThreads) {
    const int32_t id = home * kChunk + i;
    if (!without(id)) sum += weight(logit_at(row, id), base, rate);
  }
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) scratch.records[home].sum = static_cast<float>(sum);
  __syncthreads();
  double left = 0.0;
  for (int32_t c = threadIdx.x; c < num_chunks(row.vocab); c += kThreads) {
    left += chunk_mass(sampling, scratch, law, c);
  }
  return block_sum(left, totals);
}

template <class T>
__device__ inline double take_out_of_group(const Row<T>& row, const RowSampling& sampling,
                                           const RowScratch& scratch, const Law& law, double before,
                                           int32_t column) {
  const float logit = logit_at(row, column);
  if (!(logit >= law.cutoff)) return before;
  const float rate = exponent_rate(inverse_temperature(sampling.temperature));
  const uint64_t units = mass_units(weight(logit, static_cast<float>(law.max), rate));
  for (int32_t i = threadIdx.x; i < law.listed; i += kThreads) {
    if (scratch.listed[i] == column / kGroup) scratch.masses[i] -= units;
  }
  __syncthreads();
  return before - static_cast<double>(units) / kMassUnit;
}

// Takes a column of a row that is not one-hot out of the masses in scratch, where it still is; the
// mass that is left of `before`. `without` has it and those taken out earlier.
template <class T, class Without>
__device__ inline double take_out(const Row<T>& row, const RowSampling& sampling,
                                  const RowScratch& scratch, const Law& law, double before,
                                  int32_t column, const Without& without) {
  if (column < 0 || column >= row.vocab) return before;
  return sampling.filtered() ? take_out_of_group(row, sampling, scratch, law, before, column)
                             : take_out_of_chunk(row, sampling, scratch, law, column, without);
}

}  // namespace tapout::cuda
