// tree_verify: walk down from the root as long as a child is accepted, or look at leaves first;
// emit one more token, advance positions (core/tree.h). Only rows that are looked at are read;
// requests are spread over the workers.
#include "ops.h"
#include "tree_traverse.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// How a row ends.
struct TreeStep {
  int64_t node;   // the accepted child, -1: none
  int64_t token;  // emitted where there is none
  bool bad;       // met a child that the draft, or the target, cannot emit
};

static TreeStep step_token(const TreeRequest& request, TreeRow& row, const Team& team) {
  bool bad = false;
  int64_t last = -1, node = first_child(request, row.at);
  for (; node >= 0 && row.residual.left > 0.0; node = next_sibling(request, node)) {
    const TreeChild child = child_at(request, row, node);
    bad |= child.bad || child.foreign;
    if (child.bad) break;
    const double p_target = child.lost ? 0.0 : law_probability(row.law, child.token);
    const double uniform = noise(request, node, Domain::kAccept);
    if (accepts_child(uniform, p_target, child.p_draft, row.residual)) return {node, -1, bad};
    reject_child(request, row, child, team);
    last = node;
  }
  return {-1, tree_replacement(request, row, last), bad};
}

// gumbel and greedy: down to the first child that is what the target itself would emit.
static TreeStep step_equal(const TreeRequest& request, TreeRow& row, int64_t count,
                           const Team& team) {
  const TreeVerifyParams& params = request.params;
  int64_t token = row.law.argmax;
  if (params.rule == Rule::kGumbel) {
    const int64_t position = offset_position(params.position[request.state], count);
    token = draw_gumbel(row.law, params.seed[request.state], position, team);
  }
  for (int64_t node = first_child(request, row.at); node >= 0; node = next_sibling(request, node)) {
    const TreeChild child = child_at(request, row, node);
    if (child.bad) return {-1, token, true};
    if (child.token == token) return {node, token, false};
  }
  return {-1, token, false};
}

static void emit(const TreeRequest& request, int64_t count, int64_t token) {
  const TreeVerifyParams& params = request.params;
  params.tokens[request.b * (params.nodes + 1) + count] = token;
  params.last_token[request.b] = token;
  params.num_emitted[request.b] += 1;
}

static void emit_node(const TreeRequest& request, int64_t count, int64_t node) {
  emit(request, count, token_of(request, node));
  request.params.path[request.b * request.params.nodes + count] = static_cast<int32_t>(node);
  request.params.num_accepted[request.b] += 1;
}

static Status walk(const TreeRequest& request, const Team& team) {
  const TreeVerifyParams& params = request.params;
  bool bad = !params.valid[request.b];
  for (int64_t at = 0, count = 0;; ++count) {
    TreeRow row = tree_row(request, at, team);
    if (row.law.status != Status::kOk) return row.law.status;
    const TreeStep step = params.rule == Rule::kToken ? step_token(request, row, team)
                                                      : step_equal(request, row, count, team);
    bad |= step.bad;
    if (step.node < 0) {
      emit(request, count, step.token);
      return bad ? Status::kBadDraft : Status::kOk;
    }
    emit_node(request, count, step.node);
    at = step.node + 1;
  }
}

static Status walk_leaves_first(const TreeRequest& request, const Team& team) {
  Traversal traversal(request, team);
  const TraversalRow& end = traverse(traversal);
  for (int64_t i = 0; i < traversal.depth; ++i) {
    emit_node(request, i, traversal.rows[i + 1].at - 1);
  }
  TreeRow& row = end_row(traversal, end);
  if (row.law.status != Status::kOk) return row.law.status;
  emit(request, traversal.depth, tree_replacement(request, row, end.last));
  const bool bad = traversal.bad || !request.params.valid[request.b];
  return bad ? Status::kBadDraft : Status::kOk;
}

static void clear_row(const TreeVerifyParams& params, int64_t b) {
  const int64_t nodes = params.nodes;
  for (int64_t i = 0; i <= nodes; ++i) params.tokens[b * (nodes + 1) + i] = -1;
  for (int64_t i = 0; i < nodes; ++i) params.path[b * nodes + i] = -1;
  params.num_accepted[b] = params.num_emitted[b] = 0;
  params.last_token[b] = 0;
  params.status[b] = static_cast<int32_t>(Status::kOk);
}

void tree_verify(const TreeVerifyParams& params, const Team& team) {
  for_each_row(team, params.batch, [&](const Team& crew, int64_t b) {
    const int64_t state = state_row(params.rows, b);
    clear_row(params, b);
    if (!params.live[b] || state < 0) return;
    const TreeRequest request = tree_request(params, b, state);
    const Status status =
        params.rule == Rule::kBlock ? walk_leaves_first(request, crew) : walk(request, crew);
    params.status[b] = static_cast<int32_t>(status);
    params.position[state] = offset_position(params.position[state], params.num_emitted[b]);
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
