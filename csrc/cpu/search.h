// The largest logit that enough logits, or enough mass, reach: a search over order keys without a
// sort. While the window may hold many logits, one pass weighs a ladder of thresholds, put where a
// sample of the chunks expects the answer; then each pass is a histogram of the window. Sums are of
// integers (mass in units of 2^-40), so neither threads nor their order change them. Chunks outside
// the window are not read.
#pragma once

#include "mass.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr double kMassUnit = 0x1p40;
constexpr int kRungs = 8;
constexpr double kFew = 4096.0;  // logits that a histogram takes in less time than a ladder
constexpr int kLadders = 2;      // at most: a ladder does not split ties
constexpr int64_t kSample = 16;  // one chunk of so many is asked where to put a ladder

enum class Measure { kCount, kMass };

struct Histogram {
  int64_t bin[kBins];
};

// Where a cutoff is: keys of `range`; `above` is the measure of every key above it.
struct Window {
  KeyRange range;
  int64_t above;
  double population;  // no fewer than its logits
};

// body(begin, end) over all chunks, a piece for each worker.
template <class Body>
inline void for_each_piece(const RowLaw& law, const Team& team, const Body& body) {
  const int64_t chunks = num_chunks(law.row.vocab);
  const int64_t step = (chunks + team.workers - 1) / team.workers;
  for_each(team, (chunks + step - 1) / step, [&](int64_t, int64_t piece) {
    const int64_t end = (piece + 1) * step;
    body(piece * step, end < chunks ? end : chunks);
  });
}

inline void add_shared(const int64_t* part, int64_t n, int64_t* total) {
  for (int64_t i = 0; i < n; ++i) {
    if (part[i]) __atomic_fetch_add(total + i, part[i], __ATOMIC_RELAXED);
  }
}

// Weights relative to the row's maximum, 16 at a time.
struct Weigher {
  Vec16 max;
  Vec16 rate;

  explicit Weigher(const RowLaw& law)
      : max(set16(static_cast<float>(law.moments.max))),
        rate(set16(exponent_rate(law.inv_temperature))) {}
  Vec16 operator()(Vec16 z) const { return exp2_16(sub16(z, max), rate); }
};

// ---- ladders ------------------------------------------------------------------------------------

struct Ladder {
  uint32_t key[kRungs];  // ascending
  int64_t measure[kRungs];
};

template <Measure kMeasure>
inline void climb_chunk(const Weigher& weigh, const ChunkBuffer& chunk, const Vec16* rung,
                        int64_t* measure) {
  Vec16 sum[kRungs];
  const Vec16 zero = set16(0.0f);
  for (int j = 0; j < kRungs; ++j) sum[j] = zero;
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    const Vec16 z = load16(chunk.value + i * kLanes);
    if (count_ge16(z, rung[0]) == 0) continue;
    if (kMeasure == Measure::kCount) {
      for (int j = 0; j < kRungs; ++j) measure[j] += count_ge16(z, rung[j]);
    } else {
      const Vec16 weight = weigh(z);
      for (int j = 0; j < kRungs; ++j) {
        sum[j] = add16(sum[j], select_ge16(z, rung[j], weight, zero));
      }
    }
  }
  if (kMeasure == Measure::kCount) return;
  for (int j = 0; j < kRungs; ++j) {
    measure[j] += static_cast<int64_t>(reduce_add16(sum[j]) * kMassUnit);
  }
}

// Of one chunk in `sample`.
template <Measure kMeasure>
inline void climb(const RowLaw& law, int64_t sample, const Team& team, Ladder& ladder) {
  Vec16 rung[kRungs];
  for (int j = 0; j < kRungs; ++j) rung[j] = set16(key_value(ladder.key[j]));
  const float lowest = key_value(ladder.key[0]);
  const Weigher weigh(law);
  for_each_piece(law, team, [&](int64_t begin, int64_t end) {
    ChunkBuffer buffer;
    int64_t part[kRungs] = {};
    for (int64_t c = (begin + sample - 1) / sample * sample; c < end; c += sample) {
      if (law.scratch.chunk[c].max < lowest) continue;
      load_chunk(law.row, c, buffer);
      climb_chunk<kMeasure>(weigh, buffer, rung, part);
    }
    add_shared(part, kRungs, ladder.measure);
  });
}

// Thresholds at equal distances inside the window, at the beginning of bins of the last size.
inline Ladder ladder_over(KeyRange range, int precision) {
  const double low = key_value(range.low), high = key_value(range.high);
  Ladder ladder = {};
  for (int j = 0; j < kRungs; ++j) {
    const double value = low + (high - low) * (j + 1) / (kRungs + 1);
    ladder.key[j] = key_range(static_cast<float>(value), 0.0f, precision).low;
  }
  return ladder;
}

// How many logits of at least `low` have this measure together.
template <Measure kMeasure>
inline double most(const RowLaw& law, uint32_t low, int64_t measure) {
  if (kMeasure == Measure::kCount) return static_cast<double>(measure);
  const double weight = exp((key_value(low) - law.moments.max) * law.inv_temperature);
  return static_cast<double>(measure) / kMassUnit / weight;
}

// The part of the window that reaches the goal, as thresholds inside `where` tell.
template <Measure kMeasure>
inline Window narrowed(const RowLaw& law, const Window& window, KeyRange where, int64_t goal,
                       int64_t sample, const Team& team) {
  Ladder ladder = ladder_over(where, key_precision(law.row.dtype));
  climb<kMeasure>(law, sample, team, ladder);
  int below = kRungs;  // the first rung that is too high
  while (below > 0 && ladder.measure[below - 1] < goal) --below;
  if (below < kRungs && ladder.key[below] <= window.range.low) return window;  // out of reach
  Window next = window;
  if (below < kRungs) {
    next.range.high = ladder.key[below] - 1;
    next.above = ladder.measure[below];
  }
  if (below == 0) return next;
  next.range.low = ladder.key[below - 1];
  next.population = most<kMeasure>(law, next.range.low, ladder.measure[below - 1] - next.above);
  return next;
}

// Where a sample of the chunks expects the cutoff, with room for its error.
template <Measure kMeasure>
inline KeyRange expected_range(const RowLaw& law, const Window& window, int64_t goal,
                               const Team& team) {
  const int precision = key_precision(law.row.dtype);
  Window guess = window;
  for (int i = 0; i < 2; ++i) {
    guess = narrowed<kMeasure>(law, guess, guess.range, goal / kSample, kSample, team);
  }
  const double low = key_value(guess.range.low), high = key_value(guess.range.high);
  const double room = (high - low) * (kRungs / 2), least = key_value(window.range.low),
               most = key_value(window.range.high);
  return key_range(static_cast<float>(low - room > least ? low - room : least),
                   static_cast<float>(high + room < most ? high + room : most), precision);
}

// ---- histograms ---------------------------------------------------------------------------------

// Every logit counts, so that a bin with one is not taken for an empty bin.
template <Measure kMeasure>
inline void add_chunk(const Weigher& weigh, const ChunkBuffer& chunk, KeyRange range, int shift,
                      Histogram& to) {
  alignas(64) uint32_t bin[kLanes];
  alignas(64) int64_t weight[kLanes] = {};
  for (int64_t i = 0; i < chunk.vectors; ++i) {
    const Vec16 z = add16(load16(chunk.value + i * kLanes), set16(0.0f));  // -0 becomes +0
    uint32_t inside = key_bins16(z, range.low, range.high - range.low, shift, bin);
    if (inside == 0) continue;
    if (kMeasure == Measure::kMass) fixed16(weigh(z), weight);
    for (; inside != 0; inside &= inside - 1) {
      const int lane = __builtin_ctz(inside);
      to.bin[bin[lane]] += weight[lane] + 1;
    }
  }
}

inline bool overlaps(const ChunkStats& chunk, KeyRange range) {
  return order_key(chunk.max) >= range.low && order_key(chunk.min) <= range.high;
}

template <Measure kMeasure>
inline void fill_histogram(const RowLaw& law, KeyRange range, int shift, const Team& team,
                           Histogram& to) {
  const Weigher weigh(law);
  const auto add = [&](int64_t begin, int64_t end, Histogram& part) {
    ChunkBuffer buffer;
    part = {};
    for (int64_t c = begin; c < end; ++c) {
      if (!overlaps(law.scratch.chunk[c], range)) continue;
      load_chunk(law.row, c, buffer);
      add_chunk<kMeasure>(weigh, buffer, range, shift, part);
    }
  };
  if (team.workers == 1) return add(0, num_chunks(law.row.vocab), to);
  to = {};
  for_each_piece(law, team, [&](int64_t begin, int64_t end) {
    Histogram part;
    add(begin, end, part);
    add_shared(part.bin, kBins, to.bin);
  });
}

// The bin that reaches the goal, from above; the lowest that is not empty if none does.
inline int64_t reaching_bin(const Histogram& histogram, int64_t last, int64_t goal,
                            int64_t& above) {
  int64_t total = above;
  for (int64_t bin = 0; bin <= last; ++bin) total += histogram.bin[bin];
  goal = goal < total ? goal : total;
  int64_t bin = last;
  while (bin > 0 && above + histogram.bin[bin] < goal) above += histogram.bin[bin--];
  return bin;
}

// The largest logit t of the window with measure{z >= t} >= goal, or its smallest logit.
template <Measure kMeasure>
inline float largest_reaching(const RowLaw& law, Window window, double amount, const Team& team) {
  const int precision = key_precision(law.row.dtype);
  const int64_t goal = static_cast<int64_t>(ceil(amount));
  for (int i = 0; i < kLadders && window.population > kFew; ++i) {
    const bool guess = i == 0 && num_chunks(law.row.vocab) >= 2 * kSample;
    const KeyRange where = guess ? expected_range<kMeasure>(law, window, goal, team) : window.range;
    window = narrowed<kMeasure>(law, window, where, goal, 1, team);
  }
  Histogram histogram;
  for (;;) {
    const int shift = bin_shift(window.range, precision);
    fill_histogram<kMeasure>(law, window.range, shift, team, histogram);
    const int64_t last = (window.range.high - window.range.low) >> shift;
    const int64_t bin = reaching_bin(histogram, last, goal, window.above);
    window.range = bin_range(window.range, shift, bin);
    if (shift == precision) return bin_value(window.range);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
