// The processed distribution of a row: temperature, then top-k, then top-p (core/sampling.h).
// Cutoffs are found by bisection over order-preserving keys of the logits: each step counts, or
// weighs, the logits above a probe. Exact, no sort, and chunks whose maximum is below the probe are
// not read. Memory: two small records per chunk of 1024 ids.
#pragma once

#include "row.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct RowScratch {
  ChunkStats* chunk;  // [chunks]
  double* mass;       // [chunks] of the weights a token is drawn from
};

inline RowScratch row_scratch(const Team& team, int64_t vocab) {
  double* mass = reinterpret_cast<double*>(team.scratch);
  return {reinterpret_cast<ChunkStats*>(mass + num_chunks(vocab)), mass};
}

struct RowLaw {
  Row row;
  Status status;
  bool one_hot;            // all mass on argmax
  int64_t argmax;          // where one_hot
  double temperature;      // 0 where it counts as 0
  double inv_temperature;  // 1/T', T' = 1 where T counts as 0
  Moments moments;         // before top-k and top-p
  double kept;             // sum of the kept weights, relative to moments.max
  float cutoff;            // z >= cutoff is kept
  bool filtered;           // the cutoff removes something
  RowScratch scratch;
};

inline float chunk_weight_base(const ChunkStats& chunk) {
  return chunk.max == -INFINITY ? 0.0f : chunk.max;
}

// The kept weights of one chunk relative to the chunk's own maximum.
inline void kept_weights(const RowLaw& law, int64_t chunk, float cutoff, ChunkBuffer& buffer) {
  load_chunk(law.row, chunk, buffer);
  const Vec16 max = set16(chunk_weight_base(law.scratch.chunk[chunk]));
  const Vec16 rate = set16(exponent_rate(law.inv_temperature));
  const Vec16 limit = set16(cutoff), zero = set16(0.0f);
  for (int64_t i = 0; i < buffer.vectors; ++i) {
    const Vec16 z = load16(buffer.value + i * kLanes);
    const Vec16 weight = exp2_16(sub16(z, max), rate);
    store16(buffer.value + i * kLanes, select_ge16(z, limit, weight, zero));
  }
}

inline float buffer_sum(const ChunkBuffer& buffer) {
  BlockSum sum = zero_sum();
  for (int64_t i = 0; i < buffer.vectors; i += kBlock) {
    for (int64_t k = 0; k < kBlock; ++k) {
      sum.part[k] = add16(sum.part[k], load16(buffer.value + (i + k) * kLanes));
    }
  }
  return total(sum);
}

// What a chunk's own weights are worth relative to the row's maximum.
inline double chunk_scale(const RowLaw& law, int64_t chunk) {
  const double max = law.scratch.chunk[chunk].max;
  return max == -INFINITY ? 0.0 : exp((max - law.moments.max) * law.inv_temperature);
}

// Fills scratch.mass with each chunk's mass{z >= cutoff}; returns the total.
inline double kept_mass(const RowLaw& law, float cutoff) {
  const int64_t chunks = num_chunks(law.row.vocab);
  ChunkBuffer buffer;
  double total = 0.0;
  for (int64_t c = 0; c < chunks; ++c) {
    double mass = 0.0;
    if (law.scratch.chunk[c].max >= cutoff) {
      kept_weights(law, c, cutoff, buffer);
      mass = chunk_scale(law, c) * buffer_sum(buffer);
    }
    law.scratch.mass[c] = mass;
    total += mass;
  }
  return total;
}

inline int64_t count_kept(const RowLaw& law, float cutoff, int64_t enough) {
  const int64_t chunks = num_chunks(law.row.vocab);
  const Vec16 limit = set16(cutoff);
  ChunkBuffer buffer;
  int64_t count = 0;
  for (int64_t c = 0; c < chunks && count < enough; ++c) {
    if (!(law.scratch.chunk[c].max >= cutoff)) continue;
    load_chunk(law.row, c, buffer);
    for (int64_t i = 0; i < buffer.vectors; ++i) {
      count += count_ge16(load16(buffer.value + i * kLanes), limit);
    }
  }
  return count;
}

// The largest t in [low, max] for which passes(t); low is known to pass.
template <class Passes>
inline float largest_passing(float low, float max, const Passes& passes) {
  KeySearch search = {order_key(low), order_key(max)};
  while (search.low < search.high) {
    const uint32_t probe = search_probe(search);
    search = search_next(search, probe, passes(key_value(probe)));
  }
  return key_value(search.low);
}

inline float smallest_finite(const RowLaw& law) {
  float least = INFINITY;
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) {
    const float min = law.scratch.chunk[c].min;
    least = min < least ? min : least;
  }
  return least;
}

// The smallest logit with e^((z - m)/T) >= min_p; the maximum always counts.
inline float smallest_reaching(const RowLaw& law, double min_p) {
  float least = static_cast<float>(law.moments.max);
  ChunkBuffer buffer;
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) {
    if (!reaches(law.scratch.chunk[c].max, law.moments.max, law.inv_temperature, min_p)) continue;
    load_chunk(law.row, c, buffer);
    for (int64_t i = 0; i < buffer.vectors * kLanes; ++i) {
      const float z = buffer.value[i];
      if (z < least && reaches(z, law.moments.max, law.inv_temperature, min_p)) least = z;
    }
  }
  return least + 0.0f;
}

inline float find_cutoff(const RowLaw& law, const RowSampling& sampling) {
  const float max = static_cast<float>(law.moments.max);
  float cutoff = smallest_finite(law);
  if (sampling.top_k > 0 && count_kept(law, cutoff, sampling.top_k) >= sampling.top_k) {
    cutoff = largest_passing(
        cutoff, max, [&](float t) { return count_kept(law, t, sampling.top_k) >= sampling.top_k; });
  }
  if (sampling.top_p < 1.0) {
    const double goal = sampling.top_p * kept_mass(law, cutoff);
    cutoff = largest_passing(cutoff, max, [&](float t) { return kept_mass(law, t) >= goal; });
  }
  if (sampling.min_p > 0.0) {
    const float least = smallest_reaching(law, sampling.min_p);
    cutoff = least > cutoff ? least : cutoff;
  }
  return cutoff;
}

// Where the maximum is (the lowest id of a tie), and the second largest logit.
struct TopIndex {
  int64_t argmax;
  Top2 top;
};

inline TopIndex locate_top(const RowLaw& law) {
  const float max = static_cast<float>(law.moments.max);
  Top2 top = {-INFINITY, -INFINITY};
  int64_t home = -1;
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) {
    if (home < 0 && law.scratch.chunk[c].max == max) {
      home = c;
    } else {
      top = merge(top, Top2{law.scratch.chunk[c].max, -INFINITY});
    }
  }
  ChunkBuffer buffer;
  load_chunk(law.row, home, buffer);
  int64_t argmax = -1;
  for (int64_t i = 0; i < buffer.vectors * kLanes; ++i) {
    if (argmax < 0 && buffer.value[i] == max) argmax = home * kChunk + i;
    top = merge(top, Top2{buffer.value[i], -INFINITY});
  }
  return {argmax, top};
}

// 1/T, kept above 0: at T = inf a -inf logit still weighs nothing.
inline double inverse_temperature(double temperature) {
  const double inverse = 1.0 / temperature;
  return inverse > 0x1p-126 ? inverse : 0x1p-126;
}

// Reads the row into scratch.chunk and law.moments; sets the status.
template <Visit kVisit>
inline void read_row(RowLaw& law, const Team& team) {
  visit_row<kVisit>(law.row, exponent_rate(law.inv_temperature), team, law.scratch.chunk);
  const int64_t chunks = num_chunks(law.row.vocab);
  law.moments = row_moments(law.scratch.chunk, chunks, law.inv_temperature);
  law.status = row_status(law.moments);
}

inline void apply_filters(RowLaw& law, const RowSampling& sampling, bool want_cutoff) {
  law.cutoff = -INFINITY;
  law.kept = law.moments.sum;
  law.filtered = sampling.filtered();
  if (law.filtered) {
    law.cutoff = find_cutoff(law, sampling);
    law.kept = kept_mass(law, law.cutoff);
  } else if (want_cutoff) {
    law.cutoff = smallest_finite(law);
  }
}

inline void apply_argmax(RowLaw& law) {
  law.argmax = locate_top(law).argmax;
  law.cutoff = static_cast<float>(law.moments.max);
  law.kept = 1.0;
}

// The law of a row, or why it has none. `statistics` asks for what write_stats needs.
inline RowLaw row_law(const Row& row, const RowSampling& sampling, bool statistics,
                      const Team& team) {
  RowLaw law = {};
  law.row = row;
  law.scratch = row_scratch(team, row.vocab);
  law.status = Status::kNan;
  if (!sampling.valid) return law;
  law.one_hot = sampling.argmax;
  law.temperature = sampling.argmax ? 0.0 : sampling.temperature;
  law.inv_temperature = inverse_temperature(sampling.temperature);
  if (statistics || sampling.filtered()) {
    read_row<Visit::kAll>(law, team);
  } else if (law.one_hot) {
    read_row<Visit::kMax>(law, team);
  } else {
    read_row<Visit::kSum>(law, team);
  }
  if (law.status != Status::kOk) return law;
  if (law.one_hot) {
    apply_argmax(law);
  } else {
    apply_filters(law, sampling, statistics);
  }
  return law;
}

// [8] f32: lse, entropy, top1_prob, top2_prob, token_logprob, cutoff, temperature, 0.
inline void write_stats(const RowLaw& law, double token_logprob, float* stats) {
  const Moments& row = law.moments;
  const double second = locate_top(law).top.second;
  const double temperature = law.one_hot ? 1.0 : law.temperature;
  stats[kLse] = static_cast<float>(row.max / temperature + log(law.kept));
  stats[kEntropy] = static_cast<float>(entropy(row));
  stats[kTop1Prob] = static_cast<float>(1.0 / row.sum);
  stats[kTop2Prob] = static_cast<float>(probability(second, row.max, law.inv_temperature, row.sum));
  stats[kTokenLogprob] = static_cast<float>(token_logprob);
  stats[kCutoff] = law.cutoff;
  stats[kTemperature] = static_cast<float>(law.temperature);
  stats[kAcceptEstimate] = 0.0f;
}

inline void write_invalid_stats(float* stats) {
  for (int i = 0; i < kStatsColumns; ++i) stats[i] = i < kTemperature ? NAN : 0.0f;
}

// p(id) of the processed distribution.
inline double law_probability(const RowLaw& law, int64_t id) {
  if (law.one_hot) return id == law.argmax ? 1.0 : 0.0;
  const float logit = logit_at(law.row, id);
  if (!(logit >= law.cutoff)) return 0.0;
  return probability(logit, law.moments.max, law.inv_temperature, law.kept);
}

// ln p(id); -inf where it is cut or outside the vocabulary.
inline double law_log_probability(const RowLaw& law, int64_t id) {
  if (id < 0 || id >= law.row.vocab) return -INFINITY;
  if (law.one_hot) return id == law.argmax ? 0.0 : -INFINITY;
  const float logit = logit_at(law.row, id);
  if (!(logit >= law.cutoff)) return -INFINITY;
  return log_probability(logit, law.moments.max, law.inv_temperature, law.kept);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
