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

// Chunk masses of the law, from the sums of its kept weights.
inline void fill_masses(RowLaw& law) {
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
  if (id < 0) return -1;
  if (t2d) id = id < target_ids ? t2d[id] : -1;
  return id < draft_vocab ? id : -1;
}

// The draft's logits of the target ids from `begin`, as the bits they are stored in. Which ids the
// draft has is not predictable: three loops without a branch instead of one with it.
template <class Bits>
inline void gather(const DraftRow& draft, int64_t begin, Bits lowest, ChunkBuffer& to) {
  const Bits* from = reinterpret_cast<const Bits*>(draft.row.data);
  const int32_t* ids = draft.t2d + begin;
  const int64_t left = draft.target_ids - begin, known = left < kChunk ? left : kChunk;
  const uint32_t vocab = static_cast<uint32_t>(draft.row.vocab);
  uint32_t safe[kChunk];
  Bits found[kChunk];
  for (int64_t i = 0; i < known; ++i) {
    const uint32_t id = static_cast<uint32_t>(ids[i]);
    safe[i] = id < vocab ? id : 0;
  }
  for (int64_t i = 0; i < known; ++i) found[i] = from[safe[i]];
  for (int64_t i = 0; i < known; ++i) {
    found[i] = static_cast<uint32_t>(ids[i]) < vocab ? found[i] : lowest;
  }
  for (int64_t i = known < 0 ? 0 : known; i < kChunk; ++i) found[i] = lowest;
  const Row row = {
      reinterpret_cast<const char*>(found), draft.row.dtype, kChunk, nullptr, 0, nullptr};
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

// weight * p_target and p_draft of sixteen ids at a time.
struct PairTerms {
  Vec16 max, rate, scale, limit;
  Vec16 anchor, inverse, level, draft_limit;

  Vec16 target(Vec16 z) const {
    const Vec16 weight = mul16(exp2_16(sub16(z, max), rate), scale);
    return select_ge16(z, limit, weight, set16(0.0f));
  }
  Vec16 draft(Vec16 z) const {
    const Vec16 zero = set16(0.0f), log_p = fma16(sub16(z, anchor), inverse, level);
    const Vec16 weight = exp2_16(min16(log_p, zero), set16(exponent_rate(1.0)));
    return select_ge16(z, draft_limit, weight, zero);
  }
};

inline PairTerms pair_terms(const RowLaw& law, const DraftRow& draft, double weight) {
  return {set16(static_cast<float>(law.moments.max)),
          set16(exponent_rate(law.inv_temperature)),
          set16(static_cast<float>(weight / law.kept)),
          set16(law.cutoff),
          set16(draft.token_logit),
          set16(draft.inverse),
          set16(draft.token_logprob),
          set16(draft.cutoff)};
}

// [p_target - p_draft]+ and min(p_target, p_draft): types, so that they are inlined.
struct Excess {
  Vec16 operator()(Vec16 p_target, Vec16 p_draft) const {
    return max16(sub16(p_target, p_draft), set16(0.0f));
  }
};
struct Shared {
  Vec16 operator()(Vec16 p_target, Vec16 p_draft) const { return min16(p_target, p_draft); }
};

// combine(weight * p_target, p_draft) of one chunk.
template <class Combine>
inline void pair_chunk(const RowLaw& law, const DraftRow& draft, double weight, int64_t chunk,
                       const Combine& combine, ChunkBuffer& buffer) {
  ChunkBuffer drafted;
  load_chunk(law.row, chunk, buffer);
  load_draft_chunk(draft, chunk, drafted);
  const PairTerms terms = pair_terms(law, draft, weight);
  for (int64_t i = 0; i < buffer.vectors * kLanes; i += kLanes) {
    const Vec16 p_target = terms.target(load16(buffer.value + i));
    store16(buffer.value + i, combine(p_target, terms.draft(load16(drafted.value + i))));
  }
}

// The sum of a whole chunk of two rows of one type, in the order of `buffer_sum`.
template <class Combine, class Scalar>
inline float pair_sum(const PairTerms& terms, const Scalar* target, const Scalar* drafted,
                      const Combine& combine) {
  BlockSum sum = zero_sum();
  for (int64_t i = 0; i < kChunk; i += kBlock * kLanes) {
    for (int64_t k = 0; k < kBlock; ++k) {
      const Vec16 p_target = terms.target(load16(target + i + k * kLanes));
      const Vec16 p_draft = terms.draft(load16(drafted + i + k * kLanes));
      sum.part[k] = add16(sum.part[k], combine(p_target, p_draft));
    }
  }
  return total(sum);
}

// Where rows need no mask, map or padding they are not copied first: the sum is that of pair_chunk.
template <class Combine>
inline float pair_chunk_sum(const RowLaw& law, const DraftRow& draft, double weight, int64_t chunk,
                            const Combine& combine) {
  const int64_t begin = chunk * kChunk;
  const bool plain = !law.row.mask && !draft.t2d && law.row.dtype == draft.row.dtype;
  if (!plain || begin + kChunk > law.row.vocab) {
    ChunkBuffer buffer;
    pair_chunk(law, draft, weight, chunk, combine, buffer);
    return buffer_sum(buffer);
  }
  const PairTerms terms = pair_terms(law, draft, weight);
  const auto sum = [&](auto type) {
    using Scalar = decltype(type);
    return pair_sum(terms, reinterpret_cast<const Scalar*>(law.row.data) + begin,
                    reinterpret_cast<const Scalar*>(draft.row.data) + begin, combine);
  };
  switch (law.row.dtype) {
    case DType::kF32: return sum(float{});
    case DType::kBf16: return sum(Bf16{});
    default: return sum(F16{});
  }
}

// Fills scratch.mass with each chunk's sum of combine(weight * p_target, p_draft); returns the
// total. For a combination that is 0 where p_target is.
template <class Combine>
inline double pair_mass(const RowLaw& law, const DraftRow& draft, double weight,
                        const Combine& combine, const Team& team) {
  const int64_t chunks = num_chunks(law.row.vocab);
  for_each(team, chunks, [&](int64_t, int64_t c) {
    const bool cut = law.scratch.chunk[c].max < law.cutoff;
    law.scratch.mass[c] = cut ? 0.0 : pair_chunk_sum(law, draft, weight, c, combine);
  });
  double total = 0.0;
  for (int64_t c = 0; c < chunks; ++c) total += law.scratch.mass[c];
  return total;
}

// sum [weight p_target - p_draft]+, its parts in scratch.mass for `draw_residual`.
inline double residual_mass(const RowLaw& law, const DraftRow& draft, double weight,
                            const Team& team) {
  if (law.one_hot) return residual_weight(weight, draft_probability_at(draft, law.argmax));
  return pair_mass(law, draft, weight, Excess{}, team);
}

// Call after `residual_mass`. Zero residual mass falls back to the law.
inline int64_t draw_residual(RowLaw& law, const DraftRow& draft, double weight, double uniform) {
  if (law.one_hot) return law.argmax;
  const auto fill = [&](int64_t c, ChunkBuffer& buffer) {
    pair_chunk(law, draft, weight, c, Excess{}, buffer);
  };
  const int64_t token = draw_from(law.scratch.mass, num_chunks(law.row.vocab), uniform, fill);
  return token >= 0 ? token : draw(law, uniform);
}

// sum min(p_target, p_draft). Overwrites scratch.mass.
inline double overlap_mass(const RowLaw& law, const DraftRow& draft, const Team& team) {
  if (law.one_hot) return draft_probability_at(draft, law.argmax);
  return pair_mass(law, draft, 1.0, Shared{}, team);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
