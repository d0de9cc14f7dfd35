// bandit_select: an arm for every row that takes part, by the serial definition (core/bandit.h).
// ucb1, ucb_tuned and ucbspec: a group's arms are scored once, at its first row; afterwards only
// the arm that was pulled is scored again. The other policies draw from the state as it is; by
// weight: a group's distribution is computed once.
#include <string.h>

#include "../core/rows.h"
#include "../core/weights.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static double policy_param(const BanditSelectParams& params) {
  return params.tables.params[kPolicyParam];
}

static double group_rate(const BanditSelectParams& params, int64_t group) {
  return params.reward == Reward::kThroughput ? token_rate(params.tables, group) : 1.0;
}

static ArmValue value_of(const BanditSelectParams& params, double rate, int64_t group, int64_t arm,
                         int64_t slot) {
  return arm_value(params.tables, params.reward, rate, static_cast<double>(params.slots), group,
                   arm, slot);
}

// The group of a batch row that takes part, or -1.
static int64_t taking_part(const BanditSelectParams& params, int64_t b) {
  if (state_row(params.rows, b) < 0) return -1;
  return bandit_group(params.group, params.live, params.tables.groups, b);
}

// ---- with pending pulls -----------------------------------------------------------------------

static void score(const BanditSelectParams& params, ScoredArm& arm) {
  const double param = policy_param(params);
  switch (params.policy) {
    case Policy::kUcb1: arm.score = ucb1_score(arm.mean, arm.pulls, arm.log_t, param); break;
    case Policy::kUcbSpec:
      arm.score = ucbspec_score(arm.mean, arm.pulls, arm.log_t,
                                static_cast<double>(params.tables.arms), param);
      break;
    default: arm.score = ucb_tuned_score(arm.mean, arm.variance, arm.pulls, arm.log_t);
  }
}

static void score_slot(const BanditSelectParams& params, int64_t group, int64_t slot, double rate,
                       ScoredArm* scored) {
  const BanditTables& tables = params.tables;
  double pulls = tables.count[bandit_cell(tables, group, 0, slot)];
  for (int64_t a = 1; a < tables.arms; ++a) {
    pulls += tables.count[bandit_cell(tables, group, a, slot)];
  }
  const double log_t = log_pulls(pulls + params.group_rows[group]);
  for (int64_t a = 0; a < tables.arms; ++a) {
    const ArmValue value = value_of(params, rate, group, a, slot);
    scored[a] = {0.0, value.count, log_t, value.mean, value.variance};
    score(params, scored[a]);
  }
}

static int32_t pull_best(const BanditSelectParams& params, ScoredArm* scored) {
  int64_t best = 0;
  for (int64_t a = 1; a < params.tables.arms; ++a) {
    if (scored[a].score > scored[best].score) best = a;
  }
  scored[best].pulls += 1.0;
  score(params, scored[best]);
  return static_cast<int32_t>(best);
}

static void select_pending(const BanditSelectParams& params) {
  const int64_t slots = params.tables.table_slots, arms = params.tables.arms;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t group = taking_part(params, b);
    if (group >= 0) params.group_rows[group] += 1;
  }
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t group = taking_part(params, b);
    if (group < 0) continue;
    ScoredArm* scored = params.scored + group * slots * arms;
    int32_t* arm = params.arm + state_row(params.rows, b) * slots;
    if (params.group_rows[group] > 0) {  // the group's first row
      const double rate = group_rate(params, group);
      for (int64_t j = 0; j < slots; ++j) score_slot(params, group, j, rate, scored + j * arms);
      params.group_rows[group] = 0;
    }
    for (int64_t j = 0; j < slots; ++j) arm[j] = pull_best(params, scored + j * arms);
  }
}

// ---- from the state as it is ------------------------------------------------------------------

static double drawn_score(const BanditSelectParams& params, const ArmValue& arm,
                          const BanditNoise& noise, int64_t word) {
  switch (params.policy) {
    case Policy::kThompsonGaussian:
      return thompson_gaussian(arm, noise, word, policy_param(params));
    case Policy::kThompsonBeta: return thompson_beta(arm, noise, word);
    default: return greedy_score(arm);
  }
}

static int64_t drawn_arm(const BanditSelectParams& params, const BanditNoise& noise, int64_t group,
                         int64_t slot) {
  const int64_t arms = params.tables.arms, word = first_draw(arms, slot, 0);
  if (params.policy == Policy::kEpsilonGreedy) {
    const int64_t arm = explored_arm(noise, word, policy_param(params), arms);
    if (arm >= 0) return arm;
  }
  const double rate = group_rate(params, group);
  double best_score = -INFINITY;
  int64_t best = 0;
  for (int64_t a = 0; a < arms; ++a) {
    const ArmValue value = value_of(params, rate, group, a, slot);
    const double score = drawn_score(params, value, noise, word + a * kArmDraws);
    if (score > best_score) {
      best_score = score;
      best = a;
    }
  }
  return best;
}

static void select_drawn(const BanditSelectParams& params) {
  const int64_t slots = params.tables.table_slots;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t group = taking_part(params, b);
    if (group < 0) continue;
    const BanditNoise noise = {*params.seed, static_cast<uint32_t>(b),
                               static_cast<uint32_t>(*params.calls)};
    int32_t* arm = params.arm + state_row(params.rows, b) * slots;
    for (int64_t j = 0; j < slots; ++j) {
      arm[j] = params.policy == Policy::kFixed
                   ? fixed_arm(policy_param(params))
                   : static_cast<int32_t>(drawn_arm(params, noise, group, j));
    }
  }
}

// ---- by weight --------------------------------------------------------------------------------

static void select_weighted(const BanditSelectParams& params) {
  const int64_t slots = params.tables.table_slots, arms = params.tables.arms, size = arms * slots;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t group = taking_part(params, b);
    if (group < 0) continue;
    const int64_t row = state_row(params.rows, b);
    double* prob = params.arm_prob + row * size;
    int32_t& first = params.group_rows[group];  // the group's first row of state, and 1
    if (first == 0) {
      for (int64_t j = 0; j < slots; ++j) {
        arm_probabilities(params.tables, params.policy, group, j, prob + j, slots);
      }
      first = static_cast<int32_t>(row + 1);
    } else {
      memcpy(prob, params.arm_prob + (first - 1) * size, size * sizeof(double));
    }
    const BanditNoise noise = {*params.seed, static_cast<uint32_t>(b),
                               static_cast<uint32_t>(*params.calls)};
    for (int64_t j = 0; j < slots; ++j) {
      const double uniform = bandit_uniforms(noise, first_draw(arms, j, 0)).first;
      const int64_t arm = drawn_by_weight(prob + j, slots, arms, uniform);
      params.arm[row * slots + j] = static_cast<int32_t>(arm);
    }
  }
}

void bandit_select(const BanditSelectParams& params) {
  if (counts_pending(params.policy)) {
    select_pending(params);
  } else if (draws_by_weight(params.policy)) {
    select_weighted(params);
  } else {
    select_drawn(params);
  }
  *params.calls += 1;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
