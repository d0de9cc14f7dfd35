// One row of a tree as its rules see it: the target's law, what its children were drawn from, and
// what rejections have left (core/tree.h).
#pragma once

#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/tree.h"
#include "draw.h"
#include "gumbel.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr double kLittleLeft = 0.25;  // of p_draft: below, a difference has lost too much

struct TreeRequest {
  const TreeVerifyParams& params;
  int64_t b;      // row of the batch
  int64_t state;  // row of seed, position and sampling
  int64_t kept;   // row of the kept draft logits, -1 if there is none
  RowSampling sampling;
};

inline TreeRequest tree_request(const TreeVerifyParams& params, int64_t b, int64_t state) {
  const int64_t kept = params.logits_row ? params.logits_row[b] : b;
  return {params, b, state, kept >= 0 && kept < params.draft_rows ? kept : -1,
          row_sampling(params.sampling, state, params.rule, params.target.vocab)};
}

inline double noise(const TreeRequest& request, int64_t slot, Domain domain) {
  const TreeVerifyParams& params = request.params;
  return uniform_at(params.seed[request.state], 0, slot, params.round[request.b], domain);
}

// ---- links --------------------------------------------------------------------------------------

inline int64_t first_child(const TreeRequest& request, int64_t row) {
  const TreeVerifyParams& params = request.params;
  if (!params.valid[request.b]) return -1;
  return next_child(params.first_child[request.b * (params.nodes + 1) + row], row, params.nodes);
}

inline int64_t next_sibling(const TreeRequest& request, int64_t node) {
  const TreeVerifyParams& params = request.params;
  return next_child(params.next_sibling[request.b * params.nodes + node], node + 1, params.nodes);
}

inline int64_t token_of(const TreeRequest& request, int64_t node) {
  return request.params.draft_tokens[request.b * request.params.nodes + node];
}

// body(token) for the children of a row up to and with `last`.
template <class Body>
inline void for_children(const TreeRequest& request, int64_t row, int64_t last, const Body& body) {
  for (int64_t node = first_child(request, row); node >= 0 && node <= last;
       node = next_sibling(request, node)) {
    body(token_of(request, node));
  }
}

// ---- rows ---------------------------------------------------------------------------------------

struct TreeRow {
  int64_t at;  // 0: the root, i + 1: node i
  RowLaw law;
  DraftRow draft;  // where `drawn`
  double p_first;  // p_draft of the first child; 0 or NaN: it cannot have been drawn
  bool drawn;      // the children come from one p_draft, without replacement; else one-hot each
  bool certain;    // all of p_draft is on the first child
  TreeResidual residual;
};

inline const float* row_stats_of(const TreeRequest& request, int64_t row) {
  return request.params.stats + (request.b * (request.params.nodes + 1) + row) * kStatsColumns;
}

inline int64_t draft_id_of(const TreeRequest& request, int64_t token) {
  const TreeVerifyParams& params = request.params;
  return draft_id(params.t2d, params.target_ids, params.draft.vocab, token);
}

// What the children of the row were drawn from, relative to the first of them.
inline void set_draft(const TreeRequest& request, TreeRow& row) {
  const TreeVerifyParams& params = request.params;
  const int64_t first = first_child(request, row.at);
  if (params.rule != Rule::kToken || !params.draft.data || first < 0) return;
  row.drawn = true;
  const float* stats = row_stats_of(request, row.at);
  const int64_t id = draft_id_of(request, token_of(request, first));
  row.p_first = request.kept >= 0 && id >= 0 ? draft_probability(stats) : 0.0;
  row.certain = stats[kTemperature] == 0.0f;
  if (!(row.p_first > 0.0)) return;
  const Row kept = row_at(params.draft, TokenMask{}, nullptr, request.kept, row.at);
  row.draft = {kept,
               params.t2d,
               params.target_ids,
               logit_at(kept, id),
               stats[kTokenLogprob],
               stats[kCutoff],
               static_cast<float>(inverse_temperature(stats[kTemperature]))};
}

inline TreeRow tree_row(const TreeRequest& request, int64_t at, const Team& team) {
  const TreeVerifyParams& params = request.params;
  TreeRow row = {};
  row.at = at;
  row.law = row_law(row_at(params.target, params.mask, nullptr, request.b, at), request.sampling,
                    false, team);
  row.residual = whole_row();
  if (row.law.status == Status::kOk) set_draft(request, row);
  return row;
}

struct TreeChild {
  int64_t node;
  int64_t token;
  double p_draft;
  bool bad;      // cannot have been drawn: the children end before it
  bool foreign;  // drawn, but no id of the target
  bool lost;     // nothing of p_target is left on it, so it is rejected
};

// Whether a child before it, which was rejected, is of the same token.
inline bool is_repeated(const TreeRequest& request, const TreeRow& row, int64_t node) {
  const int64_t token = token_of(request, node);
  bool repeated = false;
  for_children(request, row.at, node - 1, [&](int64_t other) { repeated |= other == token; });
  return repeated;
}

inline double child_probability(const TreeRequest& request, const TreeRow& row, int64_t node) {
  if (node == first_child(request, row.at)) return row.p_first;
  if (is_repeated(request, row, node)) return 0.0;
  return draft_probability_at(row.draft, token_of(request, node));
}

inline TreeChild child_at(const TreeRequest& request, const TreeRow& row, int64_t node) {
  const int64_t token = token_of(request, node);
  const bool inside = token >= 0 && token < request.params.target.vocab;
  if (!row.drawn) return {node, token, 1.0, !inside, false, is_repeated(request, row, node)};
  const double p_draft = child_probability(request, row, node);
  const bool foreign = !inside && p_draft > 0.0;
  return {node, token, p_draft, !(p_draft > 0.0), foreign, foreign};
}

// ---- rejections ---------------------------------------------------------------------------------

// The kept weights of a chunk without the children up to and with `last`.
inline void weights_without(const TreeRequest& request, const TreeRow& row, int64_t last,
                            int64_t chunk, ChunkBuffer& buffer) {
  kept_weights(row.law, chunk, row.law.cutoff, buffer);
  for_children(request, row.at, last, [&](int64_t token) {
    if (token >= 0 && token < row.law.row.vocab && token / kChunk == chunk) {
      buffer.value[token % kChunk] = 0.0f;
    }
  });
}

// One-hot: takes the child out of the masses. Returns what is left of p_target.
inline double take_out(const TreeRequest& request, TreeRow& row, const TreeChild& child) {
  RowLaw& law = row.law;
  if (law.one_hot) return 1.0;  // its argmax is never rejected
  if (child.node == first_child(request, row.at)) fill_masses(law);
  if (!child.foreign) {
    const int64_t home = child.token / kChunk;
    ChunkBuffer buffer;
    weights_without(request, row, child.node, home, buffer);
    law.scratch.mass[home] = chunk_scale(law, home) * buffer_sum(buffer);
  }
  double total = 0.0;
  for (int64_t c = 0; c < num_chunks(law.row.vocab); ++c) total += law.scratch.mass[c];
  return total / law.kept;
}

// The sum of p_draft without the children up to and with `last`.
inline double draft_sum_without(const TreeRequest& request, const TreeRow& row, int64_t last) {
  const PairTerms terms = pair_terms(row.law, row.draft, 1.0);
  double total = 0.0;
  ChunkBuffer buffer;
  for (int64_t c = 0; c < num_chunks(row.draft.row.vocab); ++c) {
    load_chunk(row.draft.row, c, buffer);
    for_children(request, row.at, last, [&](int64_t token) {
      const int64_t id = draft_id_of(request, token);
      if (id >= 0 && id / kChunk == c) buffer.value[id % kChunk] = -INFINITY;
    });
    for (int64_t i = 0; i < buffer.vectors; ++i) {
      store16(buffer.value + i * kLanes, terms.draft(load16(buffer.value + i * kLanes)));
    }
    total += buffer_sum(buffer);
  }
  return total;
}

// Rule tree_token: what a rejected child leaves of the row; prepares `tree_replacement`.
inline void reject_child(const TreeRequest& request, TreeRow& row, const TreeChild& child,
                         const Team& team) {
  TreeResidual& residual = row.residual;
  if (!row.drawn || row.certain) {
    residual.mass = take_out(request, row, child);
    if (row.certain) residual.left = 0.0;
    return;
  }
  residual.slope = next_slope(residual);
  residual.left -= child.p_draft;
  if (residual.left < kLittleLeft) {
    residual.left = draft_sum_without(request, row, child.node);
  }
  const double weight = 1.0 / residual.slope;
  residual.mass = residual.slope * residual_mass(row.law, row.draft, weight, team);
}

// The token emitted where every child up to `last` was rejected, -1: none.
inline int64_t tree_replacement(const TreeRequest& request, TreeRow& row, int64_t last) {
  RowLaw& law = row.law;
  const double uniform = noise(request, row.at, Domain::kResidual);
  if (last < 0 || law.one_hot) return draw(law, uniform);
  if (row.drawn && !row.certain) {
    return draw_residual(law, row.draft, 1.0 / row.residual.slope, uniform);
  }
  const int64_t token = draw_from(
      law.scratch.mass, num_chunks(law.row.vocab), uniform,
      [&](int64_t c, ChunkBuffer& buffer) { weights_without(request, row, last, c, buffer); });
  return token >= 0 ? token : draw(law, uniform);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
