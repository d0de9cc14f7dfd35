// Drawing a token: chunk masses in ascending order, then only the chosen chunk is read again.
//   from the law itself, from the law without one id (the residual of a one-hot draft), and from
//   norm[p_target - p_draft]+ (the residual of a full draft).
#pragma once

#include "../core/accept.h"
#include "law.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// fill(chunk, buffer) gives a chunk's weights, in any unit; mass[chunk] is its part of the total.
// Returns -1 if there is no mass.
template <class Fill>
inline int64_t draw_from(const double* mass, int64_t chunks, double uniform, const Fill& fill) {
  double total = 0.0;
  for (int64_t c = 0; c < chunks; ++c) total += mass[c];
  if (!(total > 0.0)) return -1;
  CdfScan outer = cdf_begin(uniform * total);
  for (int64_t c = 0; c < chunks && !outer.found; ++c) cdf_step(outer, mass[c], c);
  ChunkBuffer buffer;
  fill(outer.index, buffer);
  const double unit = buffer_sum(buffer) / mass[outer.index];
  CdfScan inner = cdf_begin((outer.target - outer.before) * unit);
  for (int64_t i = 0; i < buffer.vectors * kLanes && !inner.found; ++i) {
    cdf_step(inner, buffer.value[i], i);
  }
  return inner.index < 0 ? -1 : outer.index * kChunk + inner.index;
}

// Chunk masses of the law: without a filter they are the statistics' sums.
inline void fill_masses(RowLaw& law) {
  if (law.filtered) {
    kept_mass(law, law.cutoff);
    return;
  }
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) {
    law.scratch.mass[c] = chunk_scale(law, c) * law.scratch.chunk[c].sum;
  }
}

inline int64_t draw(RowLaw& law, double uniform) {
  if (law.one_hot) return law.argmax;
  fill_masses(law);
  return draw_from(
      law.scratch.mass, num_chunks(law.row.vocab), uniform,
      [&](int64_t c, ChunkBuffer& buffer) { kept_weights(law, c, law.cutoff, buffer); });
}

// Zero residual mass falls back to the law.
inline int64_t draw_without(RowLaw& law, int64_t id, double uniform) {
  if (law.one_hot) return law.argmax;
  fill_masses(law);
  const auto fill = [&](int64_t c, ChunkBuffer& buffer) {
    kept_weights(law, c, law.cutoff, buffer);
    if (c == id / kChunk) buffer.value[id % kChunk] = 0.0f;
  };
  const int64_t home = id / kChunk;
  ChunkBuffer buffer;
  fill(home, buffer);
  law.scratch.mass[home] = chunk_scale(law, home) * buffer_sum(buffer);
  const int64_t token = draw_from(law.scratch.mass, num_chunks(law.row.vocab), uniform, fill);
  return token >= 0 ? token : draw(law, uniform);
}

// A kept draft row and what its statistics say of it.
struct DraftRow {
  Row row;
  int64_t token;
  float token_logit;
  float token_logprob;
  float cutoff;
  float inverse;  // 1/T of the draft
};

inline DraftRow draft_row(const Row& row, int64_t token, const float* stats) {
  return {row,
          token,
          logit_at(row, token),
          stats[kTokenLogprob],
          stats[kCutoff],
          static_cast<float>(inverse_temperature(stats[kTemperature]))};
}

// [p_target - p_draft]+ of one chunk. p_draft is relative to the drafted token's own logit, so that
// it is the distribution the token was drawn from.
inline void residual_weights(const RowLaw& law, const DraftRow& draft, int64_t chunk,
                             ChunkBuffer& buffer) {
  ChunkBuffer drafted;
  load_chunk(law.row, chunk, buffer);
  load_chunk(draft.row, chunk, drafted);
  const Vec16 max = set16(static_cast<float>(law.moments.max)), zero = set16(0.0f);
  const Vec16 rate = set16(exponent_rate(law.inv_temperature)),
              to_base2 = set16(exponent_rate(1.0));
  const Vec16 scale = set16(static_cast<float>(1.0 / law.kept)), limit = set16(law.cutoff);
  const Vec16 anchor = set16(draft.token_logit), level = set16(draft.token_logprob);
  const Vec16 draft_inverse = set16(draft.inverse), draft_limit = set16(draft.cutoff);
  for (int64_t i = 0; i < buffer.vectors; ++i) {
    const Vec16 z = load16(buffer.value + i * kLanes);
    const Vec16 z_draft = load16(drafted.value + i * kLanes);
    const Vec16 weight = mul16(exp2_16(sub16(z, max), rate), scale);
    const Vec16 log_p = fma16(sub16(z_draft, anchor), draft_inverse, level);
    const Vec16 drafted_weight = exp2_16(min16(log_p, zero), to_base2);
    const Vec16 p_target = select_ge16(z, limit, weight, zero);
    const Vec16 p_draft = select_ge16(z_draft, draft_limit, drafted_weight, zero);
    store16(buffer.value + i * kLanes, max16(sub16(p_target, p_draft), zero));
  }
}

inline int64_t draw_residual(RowLaw& law, const DraftRow& draft, double uniform, const Team& team) {
  if (law.one_hot) return law.argmax;
  const int64_t chunks = num_chunks(law.row.vocab);
  const auto fill = [&](int64_t c, ChunkBuffer& buffer) {
    residual_weights(law, draft, c, buffer);
  };
  for_each(team, chunks, [&](int64_t, int64_t c) {
    ChunkBuffer buffer;
    law.scratch.mass[c] = 0.0;
    if (law.scratch.chunk[c].max < law.cutoff) return;
    fill(c, buffer);
    law.scratch.mass[c] = buffer_sum(buffer);
  });
  const int64_t token = draw_from(law.scratch.mass, chunks, uniform, fill);
  return token >= 0 ? token : draw(law, uniform);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
