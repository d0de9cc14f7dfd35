// tree_expand: the children of every row of a level, then the rows of the next one (core/tree.h).
#include "../core/rng.h"
#include "../core/rows.h"
#include "../core/tree.h"
#include "ops.h"
#include "remaining.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// One row of logits, and where its children go.
struct ExpandRow {
  int64_t b;
  int64_t w;
  int64_t state;  // row of seed and sampling
  int64_t node;   // the row's own, -1: the root
  int64_t first;  // its first child
  int64_t count;
};

static bool drafts(const TreeExpandParams& params, int64_t b) {
  return params.active[b] && state_row(params.rows, b) >= 0;
}

static ExpandRow expand_row(const TreeExpandParams& params, int64_t b, int64_t w) {
  const int64_t node = params.beam[b * params.beam_rows + w], first = params.child_start[w];
  const int64_t asked = params.child_start[w + 1] - first;
  const int64_t count = asked < 0 ? 0 : asked < params.children ? asked : params.children;
  const bool fits = first > node && first >= 0 && first + count <= params.nodes;
  return {b, w, state_row(params.rows, b), node, first, fits ? count : 0};
}

// Whether the row is one of the tree's: the root's, or that of a node with a token.
static bool is_there(const TreeExpandParams& params, const ExpandRow& at) {
  if (at.node < 0 || at.node >= params.nodes) return at.node == kRootParent;
  return params.tokens[at.b * params.nodes + at.node] >= 0;
}

static void clear_children(const TreeExpandParams& params, const ExpandRow& at) {
  const int64_t parent = at.node >= kRootParent ? at.node : kAbsent;
  for (int64_t c = 0; c < at.count; ++c) {
    const int64_t child = at.b * params.nodes + at.first + c;
    params.tokens[child] = -1;
    params.parents[child] = static_cast<int32_t>(parent);
    params.score[child] = -INFINITY;
  }
}

static int64_t choose(const TreeExpandParams& params, const ExpandRow& at, const RowLaw& law,
                      const Taken& taken) {
  if (!params.drawn) return best_left(law, taken);
  const double uniform = uniform_at(params.seed[at.state], 0, at.first + taken.count,
                                    params.round[at.b], Domain::kDraft);
  return draw_left(law, taken, uniform);
}

// What the children are drawn from, at the row of their parent.
static void keep(const TreeExpandParams& params, const ExpandRow& at, const RowLaw& law,
                 int64_t column, const Team& team) {
  const int64_t row = at.b * (params.nodes + 1) + at.node + 1;
  if (params.stats) {
    write_stats(law, law_log_probability(law, column), params.stats + row * kStatsColumns);
  }
  if (!params.kept_logits) return;
  const int64_t bytes = law.row.vocab * element_bytes(law.row.dtype);
  copy_row(law.row, static_cast<char*>(params.kept_logits) + row * bytes, team);
}

static void choose_children(const TreeExpandParams& params, const ExpandRow& at, RowLaw& law,
                            const Team& team) {
  const int64_t base = at.b * params.nodes;
  const double above = at.node >= 0 ? params.score[base + at.node] : 0.0;
  const int64_t begin = base + at.first;
  Taken taken;
  taken.count = 0;
  if (params.drawn) fill_masses(law);
  while (taken.count < at.count) {
    const int64_t column = choose(params, at, law, taken);
    if (taken.count == 0) keep(params, at, law, column, team);
    if (column < 0) return;
    const int64_t child = begin + taken.count;
    params.tokens[child] = target_id(law.row, column);
    params.score[child] = static_cast<float>(above + law_log_probability(law, column));
    take(law, taken, column, params.drawn);
  }
}

static void expand(const TreeExpandParams& params, const ExpandRow& at, const Team& team) {
  const bool there = is_there(params, at);
  clear_children(params, at);
  if (at.count == 0 || !there) return;
  const Row row = row_at(params.logits, params.mask, params.d2t, at.b, at.w);
  const RowSampling sampling = row_sampling(params.sampling, at.state, Rule::kToken, row.vocab);
  RowLaw law = row_law(row, sampling, params.stats != nullptr, team);
  if (law.status == Status::kOk) return choose_children(params, at, law, team);
  const int64_t kept = at.b * (params.nodes + 1) + at.node + 1;
  if (params.stats) write_invalid_stats(params.stats + kept * kStatsColumns);
}

// ---- the next level -----------------------------------------------------------------------------

struct LevelNodes {
  int64_t begin;
  int64_t end;
};

static LevelNodes level_nodes(const TreeExpandParams& params) {
  const int64_t begin = params.child_start[0], end = params.child_start[params.beam_rows];
  const int64_t low = begin < 0 ? 0 : begin;
  const int64_t high = end < params.nodes ? end : params.nodes;
  return {low, high < low ? low : high};
}

static bool grew(const TreeExpandParams& params, int64_t b) {
  const LevelNodes level = level_nodes(params);
  bool found = false;
  for (int64_t i = level.begin; i < level.end; ++i) {
    found |= params.tokens[b * params.nodes + i] >= 0;
  }
  return found;
}

static void best_children(const TreeExpandParams& params, int64_t b, int32_t* beam) {
  const LevelNodes level = level_nodes(params);
  const float* score = params.score + b * params.nodes;
  BestScores best = best_scores(score + level.begin, level.end - level.begin, params.next_rows);
  int64_t n = 0;
  for (int64_t i = level.begin; i < level.end; ++i) {
    if (is_best(best, score[i])) beam[n++] = static_cast<int32_t>(i);
  }
  while (n < params.next_rows) beam[n++] = kAbsent;
}

static int64_t row_of_child(const TreeExpandParams& params, int64_t node) {
  for (int64_t w = 0; w < params.beam_rows; ++w) {
    if (node >= params.child_start[w] && node < params.child_start[w + 1]) return w;
  }
  return 0;
}

static void next_level(const TreeExpandParams& params, int64_t b, bool drafting) {
  int32_t* beam = params.next_beam + b * params.next_rows;
  if (!params.next_node && drafting) best_children(params, b, beam);
  for (int64_t i = 0; i < params.next_rows; ++i) {
    if (params.next_node) beam[i] = params.next_node[i];
    if (!drafting || beam[i] < 0 || beam[i] >= params.nodes) beam[i] = kAbsent;
    const int64_t token = beam[i] < 0 ? 0 : params.tokens[b * params.nodes + beam[i]];
    const int64_t row = beam[i] < 0 ? 0 : row_of_child(params, beam[i]);
    params.next_row[b * params.next_rows + i] = static_cast<int32_t>(row);
    params.next_token[b * params.next_rows + i] = token < 0 ? 0 : token;
  }
}

// ln sum e^score of the next level's rows; -inf if there is none.
static double beam_logsumexp(const TreeExpandParams& params, int64_t b) {
  const int32_t* beam = params.next_beam + b * params.next_rows;
  const float* score = params.score + b * params.nodes;
  double max = -INFINITY, sum = 0.0;
  for (int64_t i = 0; i < params.next_rows; ++i) {
    if (beam[i] >= 0 && score[beam[i]] > max) max = score[beam[i]];
  }
  if (max == -INFINITY) return max;
  for (int64_t i = 0; i < params.next_rows; ++i) {
    if (beam[i] >= 0 && score[beam[i]] > -INFINITY) sum += exp(score[beam[i]] - max);
  }
  return max + log(sum);
}

void tree_expand(const TreeExpandParams& params, const Team& team) {
  for_each_row(team, params.batch * params.beam_rows, [&](const Team& crew, int64_t i) {
    const int64_t b = i / params.beam_rows;
    if (drafts(params, b)) expand(params, expand_row(params, b, i % params.beam_rows), crew);
  });
  for (int64_t b = 0; b < params.batch; ++b) {
    const bool drafting = drafts(params, b), more = drafting && grew(params, b);
    if (params.next_beam) next_level(params, b, drafting);
    if (!drafting) continue;
    params.depth[b] += more;
    const bool judged = params.threshold && params.next_beam;
    params.active[b] = more && !(judged && beam_logsumexp(params, b) < params.threshold[b]);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
