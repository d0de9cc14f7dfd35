// The processed distribution of a row (core/sampling.h) and what is asked of it.
#pragma once

#include "cutoff.h"

namespace tapout {
inline namespace TAPOUT_ISA {

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
  int64_t at = 0;
  while (at < kChunk - 1 && buffer.value[at] != max) ++at;
  buffer.value[at] = -INFINITY;
  return {home * kChunk + at, merge(top, Top2{max, largest(buffer)})};
}

// The most probable id, also of a law that is not one-hot.
inline int64_t law_argmax(const RowLaw& law) {
  return law.one_hot ? law.argmax : locate_top(law).argmax;
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

inline void apply_filters(RowLaw& law, const RowSampling& sampling, bool want_cutoff,
                          const Team& team) {
  law.cutoff = -INFINITY;
  law.kept = law.moments.sum;
  if (sampling.filtered()) {
    law.cutoff = find_cutoff(law, sampling, team);
    law.kept = keep_from(law, law.cutoff, team);
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
    apply_filters(law, sampling, statistics, team);
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
