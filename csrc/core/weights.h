// Policies that draw an arm from weights. The distribution of a row's draw, arm_prob, is kept until
// its round is learnt from: an estimate divided by any other one is biased.
//   exp3   w_a = exp(-eta L_a), L_a = sum of 1{a drawn} (1 - reward) / arm_prob_a,
//          eta = sqrt(ln A / (t A)), t = 1 + pulls   (Auer et al. 2002; EXP3Spec of BanditSpec,
//          2505.15141, is this with the reward n_acc / K)
//   hedge  w_a = exp(-eta L_a), L_a = sum of f^_a (hedge.h), eta = sqrt(ln A / t)
//   normalhedge  w_a = [R_a]+ exp([R_a]+^2 / 2c), c the root of mean exp([R]+^2 / 2c) = e, all
//   equal
//          where no R is positive; R_a = sum of the weights' f^ less f^_a   (Chaudhuri et al. 2009)
// An arm is drawn with (1 - epsilon) w_a / sum w + epsilon / A. L and R are kept where other
// policies keep squared rewards.
#pragma once

#include "bandit.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int kNewtonSteps = 12;  // from above, at a convex function: as exact as doubles are

TAPOUT_HD bool draws_by_weight(Policy policy) { return policy >= Policy::kExp3; }

TAPOUT_HD bool learns_of_rules(Policy policy) { return policy >= Policy::kHedge; }

TAPOUT_HD double learning_rate(Policy policy, double arms, double pulls) {
  return sqrt(log(arms) / ((1.0 + pulls) * (policy == Policy::kExp3 ? arms : 1.0)));
}

// w of every arm, `stride` apart; their sum, first to last. Shifted so that the largest is 1.
TAPOUT_HD double exponential_weights(const BanditTables& tables, Policy policy, int64_t group,
                                     int64_t slot, double* weight, int64_t stride) {
  const int64_t first = bandit_cell(tables, group, 0, slot);
  double pulls = 0.0, least = tables.reward_sq[first], total = 0.0;
  for (int64_t a = 0; a < tables.arms; ++a) {
    const int64_t cell = first + a * tables.table_slots;
    pulls += tables.count[cell];
    least = tables.reward_sq[cell] < least ? tables.reward_sq[cell] : least;
  }
  const double rate = learning_rate(policy, static_cast<double>(tables.arms), pulls);
  for (int64_t a = 0; a < tables.arms; ++a) {
    const double loss = tables.reward_sq[first + a * tables.table_slots];
    weight[a * stride] = exp(-rate * (loss - least));
    total += weight[a * stride];
  }
  return total;
}

// s = [max R]+^2 / 2c: mean exp(s y) = e for y = ([R]+ / max R)^2; it is in [1, 1 + ln A].
TAPOUT_HD double normal_scale(const BanditTables& tables, int64_t first, double most) {
  const double arms = static_cast<double>(tables.arms);
  double scale = 1.0 + log(arms);
  for (int step = 0; step < kNewtonSteps; ++step) {
    double total = 0.0, slope = 0.0;
    for (int64_t a = 0; a < tables.arms; ++a) {
      const double regret = tables.reward_sq[first + a * tables.table_slots] / most;
      const double square = regret > 0.0 ? regret * regret : 0.0, term = exp(scale * square);
      total += term;
      slope += square * term;
    }
    scale -= (log(total / arms) - 1.0) * total / slope;
  }
  return scale;
}

TAPOUT_HD double normal_weights(const BanditTables& tables, int64_t group, int64_t slot,
                                double* weight, int64_t stride) {
  const int64_t first = bandit_cell(tables, group, 0, slot);
  double most = 0.0, total = 0.0;
  for (int64_t a = 0; a < tables.arms; ++a) {
    const double regret = tables.reward_sq[first + a * tables.table_slots];
    most = regret > most ? regret : most;
  }
  const double scale = most > 0.0 ? normal_scale(tables, first, most) : 0.0;
  for (int64_t a = 0; a < tables.arms; ++a) {
    double share = 1.0;
    if (most > 0.0) share = tables.reward_sq[first + a * tables.table_slots] / most;
    weight[a * stride] = share > 0.0 ? share * exp(scale * (share * share - 1.0)) : 0.0;
    total += weight[a * stride];
  }
  return total;
}

// The distribution that rows of a group and slot draw from, `stride` apart.
TAPOUT_HD void arm_probabilities(const BanditTables& tables, Policy policy, int64_t group,
                                 int64_t slot, double* prob, int64_t stride) {
  const double epsilon = tables.params[kPolicyParam], arms = static_cast<double>(tables.arms);
  const double total = policy == Policy::kNormalHedge
                           ? normal_weights(tables, group, slot, prob, stride)
                           : exponential_weights(tables, policy, group, slot, prob, stride);
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

// With what probability the arm of a row of state was drawn, where that matters.
TAPOUT_HD double drawn_chance(const BanditUpdateParams& params, int64_t row, int64_t arm,
                              int64_t slot) {
  if (!draws_by_weight(params.policy)) return 1.0;
  return params.arm_prob[(row * params.arms + arm) * params.table_slots + slot];
}

// What a credit adds to reward_sq, or -1 where the arm was not drawn and teaches nothing.
TAPOUT_HD double credited_square(Policy policy, double reward, double chance) {
  if (!draws_by_weight(policy)) return reward * reward;
  return chance > 0.0 ? (1.0 - reward) / chance : -1.0;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
