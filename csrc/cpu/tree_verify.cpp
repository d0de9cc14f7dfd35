// tree_verify: walk down from the root as long as a child is accepted, emit one more token, advance
// positions (core/tree.h). Only the rows on the way are read; requests are spread over the workers.
#include "ops.h"
#include "tree.h"

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

static Status walk(const TreeRequest& request, const Team& team) {
  const TreeVerifyParams& params = request.params;
  int64_t* tokens = params.tokens + request.b * (params.nodes + 1);
  bool bad = !params.valid[request.b];
  for (int64_t at = 0, count = 0;; ++count) {
    TreeRow row = tree_row(request, at, team);
    if (row.law.status != Status::kOk) return row.law.status;
    const TreeStep step = params.rule == Rule::kToken ? step_token(request, row, team)
                                                      : step_equal(request, row, count, team);
    bad |= step.bad;
    tokens[count] = step.node >= 0 ? token_of(request, step.node) : step.token;
    params.last_token[request.b] = tokens[count];
    params.num_emitted[request.b] += 1;
    if (step.node < 0) return bad ? Status::kBadDraft : Status::kOk;
    params.path[request.b * params.nodes + count] = static_cast<int32_t>(step.node);
    params.num_accepted[request.b] += 1;
    at = step.node + 1;
  }
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
    params.status[b] = static_cast<int32_t>(walk(tree_request(params, b, state), crew));
    params.position[state] = offset_position(params.position[state], params.num_emitted[b]);
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
