// The processed distribution of a row (core/sampling.h) from what its pass left, and what is asked
// of it. A block finishes a row after arrives_last().
#pragma once

#include "../core/stats.h"
#include "block.cuh"
#include "search.cuh"

namespace tapout::cuda {

struct Law {  // the same in every thread
  Status status;
  double max;
  double sum;  // before the filters, relative to the maximum
  double dev;
  float cutoff;    // z >= cutoff is kept
  double kept;     // sum of what is kept
  int32_t listed;  // groups in the list of a filtered row
  int32_t argmax;  // of a one-hot row and with statistics
  float second;    // with statistics: the second largest logit
};

constexpr uint32_t kNoId = 0xFFFFFFFFu;

// The records of neighbouring chunks.
struct Merged {
  float max = -INFINITY;
  float second = -INFINITY;  // largest maximum of the other chunks
  float least = INFINITY;
  int32_t home = 0x7FFFFFFF;  // the first chunk that has the maximum
  double sum = 0.0;           // relative to the maximum, and the next
  double dev = 0.0;
};

// What sums are worth relative to another maximum.
__device__ inline void rescale_sums(Merged& merged, float max, double inv_temperature) {
  const double shift = (static_cast<double>(merged.max) - base_of(max)) * inv_temperature;
  const double factor = exp(shift);
  merged.dev = factor > 0.0 ? factor * (merged.dev + shift * merged.sum) : 0.0;
  merged.sum *= factor;
}

__device__ inline void merge_record(Merged& merged, const Record& record, int32_t chunk,
                                    double inv_temperature) {
  Merged one = {record.max, -INFINITY, record.min, chunk, record.sum, kLn2 * record.dev};
  one.least = fminf(one.least, merged.least);
  if (merged.home == 0x7FFFFFFF) {
    merged = one;
    return;
  }
  if (one.max > merged.max) {
    one.second = merged.max;  // at least what was second to it
    rescale_sums(merged, one.max, inv_temperature);
  } else {
    one.second = fmaxf(merged.second, one.max);
    one.home = merged.home;
    rescale_sums(one, merged.max, inv_temperature);
    one.max = merged.max;
  }
  one.sum += merged.sum;
  one.dev += merged.dev;
  merged = one;
}

// Of a thread's share of the chunks.
__device__ inline Merged merge_records(const RowScratch& scratch, int32_t chunks,
                                       double inv_temperature) {
  Merged merged;
  const int32_t each = ceil_divide(chunks, kThreads), first = threadIdx.x * each;
#pragma unroll 1
  for (int32_t c = first; c < chunks && c < first + each; ++c) {
    merge_record(merged, load_fresh(scratch.records + c), c, inv_temperature);
  }
  return merged;
}

// Where the maximum of a row is, before its sums are known.
struct alignas(16) Peak {
  uint32_t max;  // order keys
  uint32_t least;
  int32_t home;
};

__device__ inline Peak find_peak(const Merged& merged) {
  SHARED(Peak, peaks, [kWarps]);
  Peak peak;
  const uint32_t mine = order_key(merged.max);
  peak.max = warp_max(mine);
  peak.least = warp_min(order_key(merged.least));
  peak.home = static_cast<int32_t>(warp_min(mine == peak.max ? merged.home : 0x7FFFFFFF));
  if (lane_id() == 0) peaks[warp_id()] = peak;
  __syncthreads();
  peak = peaks[0];
#pragma unroll 4
  for (int warp = 1; warp < kWarps; ++warp) {  // ascending: a tie stays with the first
    const Peak other = peaks[warp];
    if (other.max > peak.max) peak.home = other.home;
    peak.max = max(peak.max, other.max);
    peak.least = min(peak.least, other.least);
  }
  return peak;
}

// A thread's ids of the chunk that has the maximum.
struct Top {
  uint32_t argmax = kNoId;
  float second = -INFINITY;
};

template <class T>
__device__ inline Top look_for_top(const Row<T>& row, int32_t home, float max) {
  Top top;
#pragma unroll
  for (int32_t i = 0; i < kChunk / kThreads; ++i) {
    const int32_t column = home * kChunk + i * kThreads + static_cast<int32_t>(threadIdx.x);
    const float z = logit_at(row, column);
    if (z == max && top.argmax == kNoId) {
      top.argmax = column;
    } else {
      top.second = fmaxf(top.second, z);
    }
  }
  return top;
}

// One warp's share of a row.
struct Share {
  double sum;
  double dev;
  uint32_t second;  // order key
  uint32_t argmax;
  uint32_t holders;  // threads that have the maximum
};

__device__ inline Law add_shares(const Merged& merged, const Top& top, float max) {
  SHARED(Share, shares, [kWarps]);
  Share share;
  share.sum = warp_sum(merged.sum);
  share.dev = warp_sum(merged.dev);
  share.second = warp_max(order_key(fmaxf(merged.second, top.second)));
  share.argmax = warp_min(top.argmax);
  share.holders = __popc(warp_ballot(top.argmax != kNoId));
  if (lane_id() == 0) shares[warp_id()] = share;
  __syncthreads();
  share = shares[0];
#pragma unroll 2
  for (int warp = 1; warp < kWarps; ++warp) {
    const Share& other = shares[warp];
    share.sum += other.sum;
    share.dev += other.dev;
    share.second = ::max(share.second, other.second);
    share.argmax = ::min(share.argmax, other.argmax);
    share.holders += other.holders;
  }
  Law law = {};
  law.max = base_of(max);
  law.sum = share.sum;
  law.dev = share.dev;
  law.argmax = static_cast<int32_t>(share.argmax);
  law.second = share.holders > 1 ? max : key_value(share.second);
  return law;
}

// The law of a row that every block has left its records of.
template <class T, bool kStatistics>
__device__ inline Law finish_row(const Row<T>& row, const RowSampling& sampling,
                                 const RowScratch& scratch) {
  const double inverse = inverse_temperature(sampling.temperature);
  Merged merged = merge_records(scratch, num_chunks(row.vocab), inverse);
  const Peak peak = find_peak(merged);
  const float max = key_value(peak.max);
  Top top;
  if (kStatistics || sampling.argmax) top = look_for_top(row, peak.home, max);
  if (merged.home != peak.home) merged.second = fmaxf(merged.second, merged.max);
  rescale_sums(merged, max, inverse);
  Law law = add_shares(merged, top, max);
  const bool finite = law.sum == law.sum && max < INFINITY && sampling.valid;
  law.status = row_status(Moments{max, law.sum, law.dev, finite});
  law.kept = law.sum;
  law.cutoff = kStatistics || scratch.groups ? key_value(peak.least) : -INFINITY;
  if (law.status != Status::kOk) return law;
  if (sampling.argmax) {
    law.cutoff = max;
    law.kept = 1.0;
  } else if (sampling.filtered()) {
    const Filtered found = filter_row(row, sampling, scratch, max, law.cutoff, law.sum);
    law.cutoff = found.cutoff;
    law.kept = found.kept;
    law.listed = found.listed;
  }
  return law;
}

// ln sum e^z of the row as it came; by the whole block.
__device__ inline double raw_log_sum(const RowScratch& scratch, int32_t chunks) {
  SHARED(uint32_t, tops, [kWarps]);
  SHARED(double, sums, [kWarps]);
  uint32_t lowest = 0xFFFFFFFFu;  // of inverted keys: of the largest maximum
  for (int32_t c = threadIdx.x; c < chunks; c += kThreads) {
    lowest = min(lowest, ~order_key(load_fresh(scratch.raw + c).max));
  }
  const double base = base_of(key_value(~block_min(lowest, tops)));
  double sum = 0.0;
  for (int32_t c = threadIdx.x; c < chunks; c += kThreads) {
    const RawRecord record = load_fresh(scratch.raw + c);
    sum += exp(record.max - base) * record.sum;
  }
  return base + log(block_sum(sum, sums));
}

// ln p of a column; -inf where it is cut or outside the row. By any one thread.
template <class T>
__device__ inline double log_probability_of(const Row<T>& row, const RowSampling& sampling,
                                            const Law& law, int64_t id) {
  if (id < 0 || id >= row.vocab) return -INFINITY;
  if (sampling.argmax) return id == law.argmax ? 0.0 : -INFINITY;
  const float logit = logit_at(row, static_cast<int32_t>(id));
  if (!(logit >= law.cutoff) || logit == -INFINITY) return -INFINITY;
  return log_probability(logit, law.max, inverse_temperature(sampling.temperature), law.kept);
}

__device__ inline double stats_column(int32_t column, const RowSampling& sampling, const Law& law,
                                      double token_logprob, float estimate) {
  switch (column) {
    case kLse: return law.max / sampling.temperature + log(law.kept);
    case kEntropy: return entropy(Moments{law.max, law.sum, law.dev, true});
    case kTop1Prob: return 1.0 / law.sum;
    case kTop2Prob:
      return probability(law.second, law.max, inverse_temperature(sampling.temperature), law.sum);
    case kTokenLogprob: return token_logprob;
    case kCutoff: return law.cutoff;
    case kTemperature: return sampling.argmax ? 0.0 : sampling.temperature;
    default: return estimate;
  }
}

// [8] f32, by the first lane of each warp: that is where `token_logprob` must be known.
__device__ inline void write_stats(float* stats, const RowSampling& sampling, const Law& law,
                                   double token_logprob, float estimate) {
  for (int32_t column = warp_id(); lane_id() == 0 && column < kStatsColumns; column += kWarps) {
    stats[column] =
        static_cast<float>(stats_column(column, sampling, law, token_logprob, estimate));
  }
}

// Of a row without a law; by the whole block.
__device__ inline void write_invalid_stats(float* stats) {
  const int32_t column = threadIdx.x;
  if (column < kStatsColumns) stats[column] = column < kTemperature ? NAN : 0.0f;
}

}  // namespace tapout::cuda
