// The lossy rules (core/accept.h): what they ask of a request's rows, and what a round remembers.
#pragma once

#include "ops.h"
#include "target.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// What goes from one slot of a draft to the next.
struct LossyRound {
  double doubt;               // of lossy_consultant
  double threshold;           // of lossy_adasd, and the next two
  double seen[kLossyMemory];  // what this round adds to the memory
  double* memory;             // row of lossy_memory, null of other rules
};

inline LossyRound lossy_round(const VerifyParams& params, int64_t state) {
  LossyRound round = {};
  if (!params.lossy_memory) return round;
  round.memory = params.lossy_memory + state * kLossyMemory;
  round.threshold = adasd_threshold(round.memory);
  return round;
}

inline void remember(const LossyRound& round) {
  for (int64_t i = 0; round.memory && i < kLossyMemory; ++i) round.memory[i] += round.seen[i];
}

// ---- rows ---------------------------------------------------------------------------------------

// sum w (z - m)/T of a chunk's kept weights, in powers of two, relative to the chunk's maximum.
inline double kept_deviation(const RowLaw& law, int64_t chunk) {
  ChunkBuffer buffer;
  load_chunk(law.row, chunk, buffer);
  const Vec16 max = set16(chunk_weight_base(law.scratch.chunk[chunk]));
  const Vec16 rate = set16(exponent_rate(law.inv_temperature));
  const Vec16 limit = set16(law.cutoff), zero = set16(0.0f);
  BlockSum sum = zero_sum();
  for (int64_t i = 0; i < buffer.vectors; i += kBlock) {
    for (int64_t k = 0; k < kBlock; ++k) {
      const Vec16 z = load16(buffer.value + (i + k) * kLanes), offset = sub16(z, max);
      const Vec16 weight = select_ge16(z, limit, exp2_16(offset, rate), zero);
      // The exponent of a -inf logit is -inf, and 0 * -inf is NaN: bounded, it is 0.
      const Vec16 exponent = max16(set16(kExponentLow), mul16(offset, rate));
      sum.part[k] = fma16(weight, exponent, sum.part[k]);
    }
  }
  return total(sum);
}

// Of the processed distribution. Overwrites scratch.mass.
inline double law_entropy(const RowLaw& law, const Team& team) {
  if (law.one_hot) return 0.0;
  const int64_t chunks = num_chunks(law.row.vocab);
  const ChunkStats* chunk = law.scratch.chunk;
  for_each(team, chunks, [&](int64_t, int64_t c) {
    law.scratch.mass[c] = chunk[c].sum > 0.0f ? kept_deviation(law, c) : 0.0;
  });
  Moments row = empty_moments();
  for (int64_t c = 0; c < chunks; ++c) {
    if (!(chunk[c].sum > 0.0f)) continue;
    const Moments piece = {chunk[c].max, chunk[c].sum, kLn2 * law.scratch.mass[c], true};
    row = merge(row, piece, law.inv_temperature);
  }
  return entropy(row);
}

inline double top_probability(const RowLaw& law) { return law.one_hot ? 1.0 : 1.0 / law.kept; }

// Ids of a chunk one after the other, in double precision.
inline double chunk_divergence(const RowLaw& law, const DraftRow& draft, int64_t chunk) {
  ChunkBuffer target, drafted;
  load_chunk(law.row, chunk, target);
  load_draft_chunk(draft, chunk, drafted);
  const PairTerms terms = pair_terms(law, draft, 1.0);
  for (int64_t i = 0; i < target.vectors * kLanes; i += kLanes) {
    const Vec16 p_target = law.one_hot ? set16(0.0f) : terms.target(load16(target.value + i));
    store16(target.value + i, p_target);
    store16(drafted.value + i, terms.draft(load16(drafted.value + i)));
  }
  if (law.one_hot && law.argmax / kChunk == chunk) target.value[law.argmax % kChunk] = 1.0f;
  double sum = 0.0;
  for (int64_t i = 0; i < target.vectors * kLanes; ++i) {
    sum += divergence_term(target.value[i], drafted.value[i]);
  }
  return sum;
}

// Of a draft that is not foreign. Overwrites scratch.mass.
inline double draft_distance(const Request& request, int64_t i, const Draft& draft,
                             const RowLaw& law, const Team& team) {
  if (draft.one_hot) return divergence_root(one_hot_divergence(law_probability(law, draft.token)));
  const DraftRow row = draft_row(request, i, draft.token);
  const int64_t chunks = num_chunks(law.row.vocab);
  for_each(team, chunks,
           [&](int64_t, int64_t c) { law.scratch.mass[c] = chunk_divergence(law, row, c); });
  double sum = 0.0;
  for (int64_t c = 0; c < chunks; ++c) sum += law.scratch.mass[c];
  return divergence_root(sum);
}

// ---- decisions ----------------------------------------------------------------------------------

// Whether drafts i + 1 to i + window exist and are what the target would emit. In scratch of its
// own: row i is still in use.
inline bool next_drafts_match(const Request& request, int64_t i, Team team) {
  if (i + kFlyWindow >= request.length) return false;
  team.scratch += scratch_bytes(request.params.target.vocab);
  for (int64_t j = i + 1; j <= i + kFlyWindow; ++j) {
    const RowLaw law = target_law(request, j, team);
    if (law.status != Status::kOk) return false;
    const Draft draft = draft_at(request, j);
    if (draft.bad || law_argmax(law) != draft.token) return false;
  }
  return true;
}

inline bool fly_accepts(const Request& request, int64_t i, const Draft& draft, const RowLaw& law,
                        const Team& team) {
  if (law_argmax(law) == draft.token) return true;
  if (!fly_unsure(law_entropy(law, team), request.params.target.vocab)) return false;
  return next_drafts_match(request, i, team);
}

inline bool adasd_accepts(const Request& request, int64_t i, const Draft& draft, const RowLaw& law,
                          LossyRound& round, const Team& team) {
  const double distance = draft_distance(request, i, draft, law, team);
  const bool survives = law_probability(law, draft.token) > 0.0 && distance <= round.threshold;
  const bool accepted = survives || law_argmax(law) == draft.token;
  double* seen = round.seen + (accepted ? 0 : 2);
  seen[0] += distance;
  seen[1] += 1.0;
  return accepted;
}

struct Judgement {
  bool accepted;
  double accept_prob;
};

inline Judgement judge_lossily(const Request& request, int64_t i, const Draft& draft,
                               const RowLaw& law, LossyRound& round, const Team& team) {
  const Rule rule = request.params.rule;
  const double p_target = draft_target_probability(law, draft);
  if (draft.foreign) return {false, 0.0};
  if (rule == Rule::kLossyEars) {
    const double tolerance = ears_tolerance(top_probability(law));
    const double uniform = noise(request, i, Domain::kAccept);
    return {ears_accepts(uniform, p_target, draft.p_draft, tolerance),
            ears_probability(p_target, draft.p_draft, tolerance)};
  }
  bool accepted = false;
  if (rule == Rule::kLossyAdaSd) {
    accepted = adasd_accepts(request, i, draft, law, round, team);
  } else if (p_target > 0.0) {
    round.doubt = consultant_doubt(round.doubt, p_target);
    accepted = rule == Rule::kLossyTypical      ? typical_accepts(p_target, law_entropy(law, team))
               : rule == Rule::kLossyConsultant ? consultant_accepts(round.doubt)
                                                : fly_accepts(request, i, draft, law, team);
  }
  return {accepted, accepted ? 1.0 : 0.0};
}

// The token emitted in place of draft i.
inline int64_t lossy_replacement(const Request& request, int64_t i, RowLaw& law, const Team& team) {
  if (request.params.rule != Rule::kLossyEars) return target_token(request, i, law, team);
  rejected_mass(request, i, law, 1.0, team);
  return replacement(request, i, law, 1.0);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
