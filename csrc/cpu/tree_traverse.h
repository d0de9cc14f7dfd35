// Rule tree_traversal (core/tree.h): down to the first leaf, and from there up and on to siblings.
// One row is in scratch at a time. That of a node is read when it is first asked of its children,
// again when they come back rejected from rows of their own, and never for a leaf that is rejected.
#pragma once

#include "tree.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// A row on the way to the one that is looked at.
struct TraversalRow {
  int64_t at;
  int64_t child;  // node to look at next, -1: none
  int64_t last;   // last node that was rejected, -1: none
  double weight;  // w
  TreeResidual residual;
};

struct Traversal {
  const TreeRequest& request;
  const Team& team;
  TreeRow row;          // of `loaded`
  int64_t loaded = -1;  // whose row is in scratch, -1: none
  bool bad = false;     // met a child that the draft, or the target, cannot emit
  int64_t depth = 0;    // of the row that is looked at
  uint32_t seen[kMostNodes / 32] = {};
  TraversalRow rows[kMostNodes + 1];

  Traversal(const TreeRequest& request, const Team& team) : request(request), team(team) {}

  void push(int64_t at, double weight) {
    rows[depth] = {at, first_child(request, at), -1, weight, weighted_row(weight)};
  }

  // Links that name a node twice do not lead to it twice.
  bool look(int64_t node) {
    const uint32_t bit = 1u << (node & 31);
    const bool fresh = !(seen[node >> 5] & bit);
    seen[node >> 5] |= bit;
    return fresh;
  }
};

inline void load_row(Traversal& t, const TraversalRow& here) {
  if (t.loaded == here.at) return;
  t.row = tree_row(t.request, here.at, t.team);
  t.row.residual = here.residual;
  t.loaded = here.at;
  if (here.last < 0 || (t.row.drawn && !t.row.certain)) return;
  for (int64_t node = first_child(t.request, here.at); node >= 0 && node <= here.last;
       node = next_sibling(t.request, node)) {
    take_out(t.request, t.row, child_at(t.request, t.row, node));
  }
}

// The child of a row was rejected.
inline void reject_below(Traversal& t, TraversalRow& here) {
  const int64_t node = here.child;
  here.child = next_sibling(t.request, node);
  if (here.child < 0 && here.at > 0 &&
      noise(t.request, here.at - 1, Domain::kAccept) >= here.weight) {
    here.weight = 0.0;  // a rejection leaves no more weight than there was: no need to know
    return;
  }
  load_row(t, here);
  const double mass = here.residual.mass;
  reject_child(t.request, t.row, child_at(t.request, t.row, node), t.team);
  here.weight = reject_weight(t.row.residual.mass, here.weight, mass, t.row.residual);
  here.residual = t.row.residual;
  here.last = node;
}

// Goes down to the next child, or refuses one that weighs nothing.
inline void look_below(Traversal& t, TraversalRow& here) {
  load_row(t, here);
  const TreeChild child = child_at(t.request, t.row, here.child);
  if (t.row.law.status != Status::kOk || child.bad || !t.look(child.node)) {
    t.bad |= t.row.law.status == Status::kOk && child.bad;
    here.child = -1;
    return;
  }
  t.bad |= child.foreign;
  const double p_target = child.lost ? 0.0 : law_probability(t.row.law, child.token);
  const double weight = child_weight(p_target, child.p_draft, here.residual);
  if (weight > 0.0) {
    t.depth += 1;
    t.push(child.node + 1, weight);
  } else {
    reject_below(t, here);
  }
}

// The row where it all ends, ready to emit from.
inline TreeRow& end_row(Traversal& t, const TraversalRow& here) {
  const bool kept = t.loaded == here.at;
  load_row(t, here);
  TreeRow& row = t.row;
  if (!kept && here.last >= 0 && row.drawn && !row.certain) {
    residual_mass(row.law, row.draft, 1.0 / row.residual.slope, t.team);
  }
  return row;
}

// Looks at rows until one is accepted: that one, the last of `rows`.
inline TraversalRow& traverse(Traversal& t) {
  t.push(0, 1.0);
  for (;;) {
    TraversalRow& here = t.rows[t.depth];
    if (here.child >= 0 && here.residual.left > 0.0) {
      look_below(t, here);
    } else if (here.at == 0 || noise(t.request, here.at - 1, Domain::kAccept) < here.weight) {
      return here;
    } else {
      t.depth -= 1;
      reject_below(t, t.rows[t.depth]);
    }
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
