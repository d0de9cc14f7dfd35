// tree_rerank: the best candidates whose parents are among them, as a tree (core/tree.h).
#include "../core/tree.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// Which of the first `size` nodes a candidate became, -1: none. They rise.
static int64_t node_of(const int32_t* node, int64_t size, int64_t candidate) {
  int64_t low = 0, high = size;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    node[middle] < candidate ? low = middle + 1 : high = middle;
  }
  return low < size && node[low] == candidate ? low : -1;
}

static void rerank(const TreeRerankParams& params, int64_t b) {
  const int64_t from = b * params.candidates, to = b * params.nodes;
  const float* score = params.score + from;
  int32_t* node = params.node + to;
  BestScores best = best_scores(score, params.candidates, params.nodes);
  int64_t size = 0;
  for (int64_t i = 0; i < params.candidates; ++i) {
    if (!is_best(best, score[i])) continue;
    const int32_t parent = params.parents[from + i];
    if (!is_parent(parent, i)) continue;
    const int64_t above = parent < 0 ? kRootParent : node_of(node, size, parent);
    if (parent >= 0 && above < 0) continue;
    params.out_tokens[to + size] = params.tokens[from + i];
    params.out_parents[to + size] = static_cast<int32_t>(above);
    node[size++] = static_cast<int32_t>(i);
  }
  for (; size < params.nodes; ++size) {
    params.out_tokens[to + size] = node[size] = -1;
    params.out_parents[to + size] = kAbsent;
  }
}

void tree_rerank(const TreeRerankParams& params) {
  for (int64_t b = 0; b < params.batch; ++b) rerank(params, b);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
