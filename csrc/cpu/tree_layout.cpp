// tree_layout: depths, links and ancestors from parent pointers (core/tree.h).
#include "../core/rng.h"
#include "../core/tree.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// Nodes before the first absent one, or -1 where the pointers are no tree.
static int64_t tree_size(const int32_t* parents, int64_t nodes) {
  int64_t size = 0;
  while (size < nodes && parents[size] != kAbsent) ++size;
  for (int64_t i = 0; i < nodes; ++i) {
    if (i < size ? !is_parent(parents[i], i) : parents[i] != kAbsent) return -1;
  }
  return size;
}

// Ancestors of node i: its parent's, and itself.
static void see(int32_t* ancestors, int64_t words, int64_t i, int64_t parent) {
  int32_t* mine = ancestors + i * words;
  const int32_t* above = ancestors + parent * words;
  for (int64_t w = 0; w < words; ++w) mine[w] = parent >= 0 ? above[w] : 0;
  mine[i >> 5] = static_cast<int32_t>(static_cast<uint32_t>(mine[i >> 5]) | 1u << (i & 31));
}

static void lay_out(const TreeLayoutParams& params, int64_t b, int64_t size) {
  const int64_t nodes = params.nodes, words = bit_words(nodes);
  const int32_t* parents = params.parents + b * nodes;
  int32_t* depth = params.depth + b * nodes;
  int64_t* position_ids = params.position_ids + b * (nodes + 1);
  const int64_t position = params.position ? params.position[b] : 0;
  position_ids[0] = position;
  for (int64_t i = 0; i < nodes; ++i) {
    const int64_t parent = i < size ? parents[i] : kRootParent;
    depth[i] = i >= size ? 0 : parent < 0 ? 1 : depth[parent] + 1;
    position_ids[i + 1] = offset_position(position, depth[i]);
    see(params.ancestors + b * nodes * words, words, i, parent);
  }
}

// From the last node to the first: each is put before the siblings that come after it.
static void link_rows(const TreeLayoutParams& params, int64_t b, int64_t size) {
  const int64_t nodes = params.nodes;
  int32_t* first_child = params.first_child + b * (nodes + 1);
  int32_t* next_sibling = params.next_sibling + b * nodes;
  for (int64_t r = 0; r <= nodes; ++r) first_child[r] = -1;
  for (int64_t i = nodes - 1; i >= 0; --i) {
    next_sibling[i] = -1;
    if (i >= size) continue;
    int32_t& first = first_child[params.parents[b * nodes + i] + 1];
    next_sibling[i] = first;
    first = static_cast<int32_t>(i);
  }
}

void tree_layout(const TreeLayoutParams& params) {
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t found = tree_size(params.parents + b * params.nodes, params.nodes);
    const int64_t size = found < 0 ? 0 : found;
    params.valid[b] = found >= 0;
    params.size[b] = static_cast<int32_t>(size);
    lay_out(params, b, size);
    link_rows(params, b, size);
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
