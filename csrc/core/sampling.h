// From a row and a uniform to a token.
//   processed distribution: mask, temperature, top-k, top-p of what top-k kept, min-p; z >= cutoff
//   is kept, ties too. top-p cutoff = the largest t with mass{z >= t} >= top_p * mass kept by
//   top-k; min-p cutoff = the smallest z with e^((z-m)/T) >= min_p; the larger one holds. inverse
//   CDF: the first id whose inclusive prefix exceeds u * total, ids in ascending order.
#pragma once

#include <math.h>
#include <string.h>

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr double kZeroTemperature = 1e-5;        // below this a temperature counts as 0
constexpr double kLargestTemperature = 0x1p126;  // above, 1/T would lose bits: it counts as this

// The sampling parameters of one row, read.
struct RowSampling {
  bool valid;          // false: NaN or negative temperature
  bool argmax;         // temperature counts as 0
  double temperature;  // T', 1 where the temperature counts as 0
  int64_t top_k;       // 0: off
  double top_p;        // 1: off
  double min_p;        // 0: off

  TAPOUT_HD bool filtered() const { return top_k > 0 || top_p < 1.0 || min_p > 0.0; }
};

TAPOUT_HD RowSampling row_sampling(const Sampling& sampling, int64_t row, Rule rule,
                                   int64_t vocab) {
  if (rule == Rule::kGreedy) return {true, true, 1.0, 0, 1.0, 0.0};
  double temperature = sampling.temperature ? sampling.temperature[row] : 1.0;
  if (!(temperature >= 0.0)) return {false, false, 1.0, 0, 1.0, 0.0};
  if (temperature > kLargestTemperature) temperature = kLargestTemperature;
  if (temperature < kZeroTemperature) return {true, true, 1.0, 0, 1.0, 0.0};
  const int64_t top_k = sampling.top_k ? sampling.top_k[row] : 0;
  const float top_p = sampling.top_p ? sampling.top_p[row] : 1.0f;
  const float min_p = sampling.min_p ? sampling.min_p[row] : 0.0f;
  return {true,
          false,
          temperature,
          top_k > 0 && top_k < vocab ? top_k : 0,
          top_p < 1.0f ? static_cast<double>(top_p) : 1.0,
          !(min_p > 0.0f) ? 0.0
          : min_p < 1.0f  ? static_cast<double>(min_p)
                          : 1.0};
}

// Whether a target id may be emitted; ids the mask has no word for may not.
TAPOUT_HD bool mask_allows(const int32_t* mask, int64_t words, int64_t id) {
  if (id < 0 || id >> 5 >= words) return false;
  return static_cast<uint32_t>(mask[id >> 5]) >> (id & 31) & 1u;
}

// min-p: whether e^((z - m)/T) >= min_p.
TAPOUT_HD bool reaches(double logit, double max, double inv_temperature, double min_p) {
  return exp((logit - max) * inv_temperature) >= min_p;
}

// Keys order floats as unsigned integers: key(a) < key(b) iff a < b (and -0 before +0).
TAPOUT_HD uint32_t order_key(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

TAPOUT_HD float key_value(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value + 0.0f;  // -0 becomes +0
}

// Bisection for the largest key that passes; `low` is known to pass, keys above `high` to fail.
struct KeySearch {
  uint32_t low;
  uint32_t high;
};

TAPOUT_HD uint32_t search_probe(KeySearch search) {
  return search.low + (search.high - search.low) / 2 + (search.high - search.low) % 2;
}

TAPOUT_HD KeySearch search_next(KeySearch search, uint32_t probe, bool passes) {
  return passes ? KeySearch{probe, search.high} : KeySearch{search.low, probe - 1};
}

// A radix search splits a range of keys into equal bins, keeps one of them and repeats. Keys of a
// 16-bit dtype come 2^precision apart, so bins of that size are the last.
constexpr int64_t kBins = 2048;

struct KeyRange {
  uint32_t low;
  uint32_t high;
};

TAPOUT_HD int key_precision(DType dtype) {
  return dtype == DType::kBf16 ? 16 : dtype == DType::kF16 ? 13 : 0;
}

TAPOUT_HD KeyRange key_range(float low, float high, int precision) {
  const uint32_t step = (1u << precision) - 1u;
  return {order_key(low) & ~step, order_key(high) | step};
}

// The smallest shift, at least `precision`, that leaves fewer than kBins bins.
TAPOUT_HD int bin_shift(KeyRange range, int precision) {
  int shift = precision;
  while ((range.high - range.low) >> shift >= static_cast<uint32_t>(kBins)) ++shift;
  return shift;
}

TAPOUT_HD KeyRange bin_range(KeyRange range, int shift, int64_t bin) {
  const uint32_t low = range.low + (static_cast<uint32_t>(bin) << shift);
  const uint32_t last = low + ((1u << shift) - 1u);
  return {low, last < range.high ? last : range.high};
}

// The only logit in a bin of the last size: its magnitude ends in zeros.
TAPOUT_HD float bin_value(KeyRange bin) {
  return key_value(bin.low & 0x80000000u ? bin.low : bin.high);
}

// Inverse CDF by steps over weights in ascending order of index.
struct CdfScan {
  double target;
  double before;  // sum of the weights before `index`
  double total;   // sum of the weights so far
  int64_t index;  // the last index of positive weight so far, -1 if none
  bool found;
};

TAPOUT_HD CdfScan cdf_begin(double target) { return {target, 0.0, 0.0, -1, false}; }

// Call until `found`. Where rounding finds none, `index` is the last index of positive weight.
TAPOUT_HD void cdf_step(CdfScan& scan, double weight, int64_t index) {
  if (!(weight > 0.0)) return;
  scan.before = scan.total;
  scan.total += weight;
  scan.index = index;
  scan.found = scan.total > scan.target;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
