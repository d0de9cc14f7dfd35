// Policies that draw an arm from weights. The distribution of a row's draw, arm_prob, is kept until
// its round is learnt from: an estimate divided by any other one is biased.
//   exp3   w_a = exp(-eta L_a), L_a = sum of 1{a drawn} (1 - reward) / arm_prob_a,
//          eta = sqrt(ln A / (t A)), t = 1 + pulls   (Auer et al. 2002; EXP3Spec of BanditSpec,
//          2505.15141, is this with the reward n_acc / K)
// An arm is drawn with (1 - epsilon) w_a / sum w + epsilon / A. L is kept where other policies keep
// squared rewards.
#pragma once

#include "bandit.h"

namespace tapout {
inline namespace TAPOUT_ISA {

TAPOUT_HD bool draws_by_weight(Policy policy) { return policy == Policy::kExp3; }

// Where arm_prob [R, A] or [R, A, K] has an arm of a row of state.
TAPOUT_HD int64_t prob_cell(const BanditTables& tables, int64_t row, int64_t arm, int64_t slot) {
  return bandit_cell(tables, row, arm, slot);
}

TAPOUT_HD double learning_rate(double arms, double pulls) {
  return sqrt(log(arms) / ((1.0 + pulls) * arms));
}

// w of every arm, `stride` apart; their sum, first to last. Shifted so that the largest is 1.
TAPOUT_HD double exponential_weights(const BanditTables& tables, int64_t group, int64_t slot,
                                     double* weight, int64_t stride) {
  const int64_t first = bandit_cell(tables, group, 0, slot);
  double pulls = 0.0, least = tables.reward_sq[first], total = 0.0;
  for (int64_t a = 0; a < tables.arms; ++a) {
    const int64_t cell = first + a * tables.table_slots;
    pulls += tables.count[cell];
    least = tables.reward_sq[cell] < least ? tables.reward_sq[cell] : least;
  }
  const double rate = learning_rate(static_cast<double>(tables.arms), pulls);
  for (int64_t a = 0; a < tables.arms; ++a) {
    const double loss = tables.reward_sq[first + a * tables.table_slots];
    weight[a * stride] = exp(-rate * (loss - least));
    total += weight[a * stride];
  }
  return total;
}

// The distribution that rows of a group and slot draw from, `stride` apart.
TAPOUT_HD void arm_probabilities(const BanditTables& tables, int64_t group, int64_t slot,
                                 double* prob, int64_t stride) {
  const double epsilon = tables.params[kPolicyParam], arms = static_cast<double>(tables.arms);
  const double total = exponential_weights(tables, group, slot, prob, stride);
  for (int64_t a = 0; a < tables.arms; ++a) {
    prob[a * stride] = (1.0 - epsilon) * (prob[a * stride] / total) + epsilon / arms;
  }
}

// One uniform through the inverse CDF; never an arm of probability 0.
TAPOUT_HD int64_t drawn_by_weight(const double* prob, int64_t stride, int64_t arms,
                                  double uniform) {
  double total = 0.0, reached = 0.0;
  for (int64_t a = 0; a < arms; ++a) total += prob[a * stride];
  const double target = uniform * total;
  int64_t arm = 0;
  for (int64_t a = 0; a < arms; ++a) {
    if (prob[a * stride] > 0.0) arm = a;
    reached += prob[a * stride];
    if (target < reached) break;
  }
  return arm;
}

// What a credit adds to reward_sq, or -1 where the arm was not drawn and teaches nothing.
TAPOUT_HD double credited_square(Policy policy, double reward, double chance) {
  if (!draws_by_weight(policy)) return reward * reward;
  return chance > 0.0 ? (1.0 - reward) / chance : -1.0;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
