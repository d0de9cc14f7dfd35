// Trees: links, the bits of who sees whom, accepted paths, and rejection without replacement.
//   tree_token  (SpecInfer 2305.09781, Sequoia 2402.12374) children x_1, x_2, .. in the order they
//   were drawn: accept x iff u q_k(x) < p_k(x), else p_{k+1} = norm[p_k - q_k]+ and q_{k+1} is q_k
//   without x, renormalised. A rejected x has p_{k+1}(x) = 0 and stays at 0, so that
//     p_k ~ [p - s_k q]+ of mass M_k,   q_k = q / R_k,   s_{k+1} = s_k + M_k / R_k,
//   from s_0 = 0, M_0 = R_0 = 1: one number says how much of q has been taken from p, and a
//   rejection costs one pass over the two rows. A child of its own one-hot q is rejected from p
//   without the children before it, of mass M_k: accept iff u M_k < p(x).
//   tree_traversal  (Traversal Verification 2505.12398) leaves first: a node is reached with weight
//   w = min(1, w' p_k(x) / q_k(x)), where w' is the weight left of its row, and its row begins as
//   the measure w p. All children rejected, it is accepted iff u < w. A rejection takes q_k from
//   the measure, S = sum [w p_k - q_k]+, and leaves it divided by the chance D = S + 1 - w of being
//   rejected, of sum w = S / D. The same form holds with p_k = [p - s_k q]+ / M_k of sum w, from
//   M_0 = 1 / w: then s_{k+1} = s_k + M_k / R_k as above, and M_{k+1} = M_k D.
#pragma once

#include <math.h>

#include "macros.h"
#include "sampling.h"
#include "tree_params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int32_t kRootParent = -1, kAbsent = -2;  // in `parents`

TAPOUT_HD int64_t bit_words(int64_t bits) { return (bits + 31) / 32; }

// Parents come before their children.
TAPOUT_HD bool is_parent(int32_t parent, int64_t node) {
  return parent >= kRootParent && parent < node;
}

// A link as a node, -1 for none: children come after their row and their earlier siblings, so that
// a walk ends whatever the links say.
TAPOUT_HD int64_t next_child(int64_t link, int64_t after, int64_t nodes) {
  return link >= after && link < nodes ? link : -1;
}

// Word w of row q of a mask of `rows`, from the bits of the nodes' ancestors [N, words]. With the
// root before the nodes it sees itself and is seen by all.
TAPOUT_HD uint32_t visible_word(const int32_t* ancestors, int64_t nodes, int64_t rows, int64_t q,
                                int64_t w) {
  const int64_t words = bit_words(nodes), root = rows - nodes;
  const uint32_t last = nodes % 32 ? (1u << (nodes % 32)) - 1u : 0xFFFFFFFFu;
  const uint32_t first = root && w == 0 ? 1u : 0u;
  if (q < root) return first;
  const int32_t* seen = ancestors + (q - root) * words;
  uint32_t here = w < words ? static_cast<uint32_t>(seen[w]) : 0u;
  if (w == words - 1) here &= last;
  if (!root) return here;
  const uint32_t below = w > 0 ? static_cast<uint32_t>(seen[w - 1]) : 0u;
  return here << 1 | (w > 0 ? (w == words ? below & last : below) >> 31 : first);
}

// Slots of a request that its new tokens may see: those before the tree and those of it.
TAPOUT_HD int64_t slots_before(const TreeAttentionParams& params, int64_t b) {
  const int64_t most = params.slots * (params.block_table ? params.table_pages : 1);
  const int64_t past = params.past[b] > 0 ? params.past[b] : 0;
  return past < most ? past : most;
}

TAPOUT_HD int64_t slots_seen(const TreeAttentionParams& params, int64_t past) {
  const int64_t most = params.slots * (params.block_table ? params.table_pages : 1);
  return past + params.among < most ? past + params.among : most;
}

// Where a slot lies: the row of `keys` and `values`, -1 where the block table names none.
TAPOUT_HD int64_t row_of_slot(const TreeAttentionParams& params, int64_t b, int64_t slot) {
  if (!params.block_table) return b;
  const int64_t page = params.block_table[b * params.table_pages + slot / params.slots];
  return page >= 0 && page < params.pages ? page : -1;
}

// Whether new token q sees slot past + k.
TAPOUT_HD bool sees(const TreeAttentionParams& params, int64_t b, int64_t q, int64_t k) {
  if (!params.tree_mask) return k <= q;
  const int32_t* row = params.tree_mask + (b * params.tokens + q) * bit_words(params.among);
  return static_cast<uint32_t>(row[k >> 5]) >> (k & 31) & 1u;
}

// What rejections have left of a row.
struct TreeResidual {
  double slope;  // s
  double mass;   // M, what [p - s q]+ is divided by
  double left;   // R
};

TAPOUT_HD TreeResidual whole_row() { return {0.0, 1.0, 1.0}; }

// Both sides are sums of one sign.
TAPOUT_HD bool accepts_child(double uniform, double p_target, double p_draft,
                             const TreeResidual& row) {
  return p_draft * (uniform * row.mass + row.slope * row.left) < p_target * row.left;
}

TAPOUT_HD double next_slope(const TreeResidual& row) { return row.slope + row.mass / row.left; }

// tree_traversal: a row reached with a weight > 0.
TAPOUT_HD TreeResidual weighted_row(double weight) { return {0.0, 1.0 / weight, 1.0}; }

TAPOUT_HD double child_weight(double p_target, double p_draft, const TreeResidual& row) {
  const double measure = (p_target - row.slope * p_draft) / row.mass;
  const double weight = measure * row.left / p_draft;
  return weight < 1.0 ? (weight > 0.0 ? weight : 0.0) : 1.0;
}

// What a rejection makes of M and w; `left` is the new sum of [p - s q]+. Where it had no chance,
// p_target is p_draft, and there is nothing to reject another child from.
TAPOUT_HD double reject_weight(double left, double weight, double mass, TreeResidual& row) {
  const double rest = left / mass, chance = rest + (1.0 - weight);
  if (!(chance > 0.0)) {
    row.left = 0.0;
    return 1.0;
  }
  row.mass = mass * chance;
  return rest / chance;
}

// Which of some scores are the best: all whose key is above `limit`, and the first `ties` at it.
struct BestScores {
  uint32_t limit;
  int64_t ties;
  int64_t count;  // how many that is
};

TAPOUT_HD int64_t scores_from(const float* score, int64_t n, uint32_t key) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) found += score[i] > -INFINITY && order_key(score[i]) >= key;
  return found;
}

// The `wanted` best of those above -inf, or all if there are fewer.
TAPOUT_HD BestScores best_scores(const float* score, int64_t n, int64_t wanted) {
  const int64_t all = scores_from(score, n, 0);
  if (all <= wanted) return {0, 0, all};
  KeySearch search = {0, 0xFFFFFFFEu};
  while (search.low < search.high) {
    const uint32_t probe = search_probe(search);
    search = search_next(search, probe, scores_from(score, n, probe) >= wanted);
  }
  return {search.low, wanted - scores_from(score, n, search.low + 1), wanted};
}

// Whether the next score, in ascending order of nodes, is one of the best; counts ties down.
TAPOUT_HD bool is_best(BestScores& best, float score) {
  if (!(score > -INFINITY)) return false;
  const uint32_t key = order_key(score);
  return key > best.limit || (key == best.limit && best.ties-- > 0);
}

// How many entries of an accepted path lead down: each names a later node than the one before it,
// so that entry j is at least j, and moving in their order overwrites nothing still to be moved.
TAPOUT_HD int64_t leading_nodes(const int32_t* path, int64_t count, int64_t nodes) {
  int64_t found = 0, last = -1;
  while (found < count && found < nodes && path[found] > last && path[found] < nodes) {
    last = path[found++];
  }
  return found;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
