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

// A kept draft row and what its statistics say of it. p_draft is taken relative to the drafted
// token's own logit, so that it is the distribution the token was drawn from.
struct DraftRow {
  Row row;             // over draft ids
  const int32_t* t2d;  // draft id of a target id, or -1; null: the ids are the same
  int64_t target_ids;  // entries of t2d
  float token_logit;
  float token_logprob;
  float cutoff;
  float inverse;  // 1/T of the draft
};

// -1 for a target id the draft vocabulary lacks.
inline int64_t draft_id(const int32_t* t2d, int64_t target_ids, int64_t draft_vocab, int64_t id) {
  if (t2d) id = id < target_ids ? t2d[id] : -1;
  return id < draft_vocab ? id : -1;
}

// The draft's logits of the target ids from `begin`, as the bits they are stored in.
template <class Bits>
inline void gather(const DraftRow& draft, int64_t begin, Bits lowest, ChunkBuffer& to) {
  const Bits* from = reinterpret_cast<const Bits*>(draft.row.data);
  Bits staged[kChunk];
  for (int64_t i = 0; i < kChunk; ++i) {
    const int64_t id = draft_id(draft.t2d, draft.target_ids, draft.row.vocab, begin + i);
    staged[i] = id < 0 ? lowest : from[id];
  }
  Row row = {reinterpret_cast<const char*>(staged), draft.row.dtype, kChunk, nullptr, 0, nullptr};
  load_chunk(row, 0, to);
}

// The draft's logits of one chunk of target ids, -inf where it has none.
inline void load_draft_chunk(const DraftRow& draft, int64_t chunk, ChunkBuffer& to) {
  if (!draft.t2d) return load_chunk(draft.row, chunk, to);
  const int64_t begin = chunk * kChunk;
  switch (draft.row.dtype) {
    case DType::kF32: return gather<uint32_t>(draft, begin, 0xFF800000u, to);
    case DType::kBf16: return gather<uint16_t>(draft, begin, 0xFF80u, to);
    case DType::kF16: return gather<uint16_t>(draft, begin, 0xFC00u, to);
  }
}

inline double draft_probability_at(const DraftRow& draft, int64_t target_id) {
  const int64_t id = draft_id(draft.t2d, draft.target_ids, draft.row.vocab, target_id);
  const float logit = id < 0 ? -INFINITY : logit_at(draft.row, id);
  if (!(logit >= draft.cutoff) || logit == -INFINITY) return 0.0;
  const double log_p =
      draft.token_logprob + (static_cast<double>(logit) - draft.token_logit) * draft.inverse;
  return log_p < 0.0 ? exp(log_p) : 1.0;
}

// combine(weight * p_target, p_draft) of one chunk.
template <class Combine>
inline void pair_chunk(const RowLaw& law, const DraftRow& draft, double weight, int64_t chunk,
                       const Combine& combine, ChunkBuffer& buffer) {
  ChunkBuffer drafted;
  load_chunk(law.row, chunk, buffer);
  load_draft_chunk(draft, chunk, drafted);
  const Vec16 max = set16(static_cast<float>(law.moments.max)), zero = set16(0.0f);
  const Vec16 rate = set16(exponent_rate(law.inv_temperature)),
              to_base2 = set16(exponent_rate(1.0));
  const Vec16 scale = set16(static_cast<float>(weight / law.kept)), limit = set16(law.cutoff);
  const Vec16 anchor = set16(draft.token_logit), level = set16(draft.token_logprob);
  const Vec16 draft_inverse = set16(draft.inverse), draft_limit = set16(draft.cutoff);
  for (int64_t i = 0; i < buffer.vectors; ++i) {
    const Vec16 z = load16(buffer.value + i * kLanes);
    const Vec16 z_draft = load16(drafted.value + i * kLanes);
    const Vec16 weighed = mul16(exp2_16(sub16(z, max), rate), scale);
    const Vec16 log_p = fma16(sub16(z_draft, anchor), draft_inverse, level);
    const Vec16 drafted_weight = exp2_16(min16(log_p, zero), to_base2);
    const Vec16 p_target = select_ge16(z, limit, weighed, zero);
    const Vec16 p_draft = select_ge16(z_draft, draft_limit, drafted_weight, zero);
    store16(buffer.value + i * kLanes, combine(p_target, p_draft));
  }
}

// Fills scratch.mass with each chunk's sum of combine(weight * p_target, p_draft); returns the
// total. For a combination that is 0 where p_target is.
template <class Combine>
inline double pair_mass(const RowLaw& law, const DraftRow& draft, double weight,
                        const Combine& combine, const Team& team) {
  const int64_t chunks = num_chunks(law.row.vocab);
  for_each(team, chunks, [&](int64_t, int64_t c) {
    law.scratch.mass[c] = 0.0;
    if (law.scratch.chunk[c].max < law.cutoff) return;
    ChunkBuffer buffer;
    pair_chunk(law, draft, weight, c, combine, buffer);
    law.scratch.mass[c] = buffer_sum(buffer);
  });
  double total = 0.0;
  for (int64_t c = 0; c < chunks; ++c) total += law.scratch.mass[c];
  return total;
}

inline Vec16 excess16(Vec16 p_target, Vec16 p_draft) {
  return max16(sub16(p_target, p_draft), set16(0.0f));
}

// sum [weight p_target - p_draft]+, its parts in scratch.mass for `draw_residual`.
inline double residual_mass(const RowLaw& law, const DraftRow& draft, double weight,
                            const Team& team) {
  if (law.one_hot) return residual_weight(weight, draft_probability_at(draft, law.argmax));
  return pair_mass(law, draft, weight, excess16, team);
}

// Call after `residual_mass`. Zero residual mass falls back to the law.
inline int64_t draw_residual(RowLaw& law, const DraftRow& draft, double weight, double uniform) {
  if (law.one_hot) return law.argmax;
  const auto fill = [&](int64_t c, ChunkBuffer& buffer) {
    pair_chunk(law, draft, weight, c, excess16, buffer);
  };
  const int64_t token = draw_from(law.scratch.mass, num_chunks(law.row.vocab), uniform, fill);
  return token >= 0 ? token : draw(law, uniform);
}

// sum min(p_target, p_draft). Overwrites scratch.mass.
inline double overlap_mass(const RowLaw& law, const DraftRow& draft, const Team& team) {
  if (law.one_hot) return draft_probability_at(draft, law.argmax);
  return pair_mass(law, draft, 1.0, min16, team);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
