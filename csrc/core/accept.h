// Acceptance. A draft without logits is one-hot: p_draft(x) = 1.
//   token    (Leviathan et al. 2211.17192, Chen et al. 2302.01318) accept x iff
//            u p_draft(x) < p_target(x); rejected: sample norm[p_target - p_draft]+
//   block    (Sun et al. 2403.10444) w_0 = 1, w_i = min(1, w_{i-1} p_target(x_i) / p_draft(x_i)),
//            S_i = sum [w_i p_target - p_draft]+ over the row that follows x_i. Level i < L holds
//            iff u (S_i + 1 - w_i) < S_i, or w_i = 1 and S_i = 0; level L iff u < w_L. The largest
//            level that holds is accepted, none is 0; below L: sample norm[w_i p_target - p_draft]+
//   gumbel   accept x iff it is the target's own token (rng.h)
//   greedy   accept x iff it is the target's argmax
// Lossy rules, off unless allowed; none accepts a token of p_target = 0, H is the entropy of the
// processed p_target in nats, and the constants are the published defaults:
//   lossy_typical     (Medusa 2401.10774) accept x iff p_target(x) > min(epsilon, delta e^-H);
//                     rejected: sample p_target
//   lossy_ears        (2512.13194) accept x iff u <= p_target(x) / p_draft(x) + tolerance, which is
//                     beta (1 - max p_target), beta what its authors serve with
//                     (vllm-ascend#5587); rejected: sample norm[p_target - p_draft]+
//   lossy_consultant  (2506.02391) the doubt is 0 where a draft begins, then beta doubt -
//                     (1 - beta) ln p_target(x); accept while it is at most epsilon; rejected:
//                     sample p_target
//   lossy_fly         (2511.22972) greedy, but what is not the argmax survives iff H >= theta ln V
//                     and the next `window` drafts are there and the argmax of their rows
//   lossy_adasd       (after AdaSD 2512.11280, a reconstruction) greedy, but what is not the argmax
//                     survives iff sqrt(JSD(p_target, p_draft)) is at most the midpoint of its
//                     means over the accepted and over the rejected drafts of earlier rounds; none
//                     does before both means exist. JSD in nats, over the target's ids
#pragma once

#include <math.h>

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

TAPOUT_HD bool accepts(double uniform, double p_target, double p_draft) {
  return uniform * p_draft < p_target;
}

TAPOUT_HD double accept_probability(double p_target, double p_draft) {
  return p_target < p_draft ? p_target / p_draft : 1.0;
}

// p_draft(x) of the drafted token from its row of statistics; NaN stays NaN.
TAPOUT_HD double draft_probability(const float* stats) {
  const double value = exp(static_cast<double>(stats[kTokenLogprob]));
  return value > 1.0 ? 1.0 : value;
}

// One entry of the residual (vectorised in cpu/draw.h); block weighs p_target by w first.
TAPOUT_HD double residual_weight(double p_target, double p_draft) {
  return p_target > p_draft ? p_target - p_draft : 0.0;
}

// w_i from w_{i-1}.
TAPOUT_HD double block_weight(double weight, double p_target, double p_draft) {
  const double product = weight * p_target / p_draft;
  return product < 1.0 ? product : 1.0;
}

// S_i of a one-hot draft of x.
TAPOUT_HD double one_hot_residual(double weight, double p_target) {
  return weight * (1.0 - p_target);
}

// Level i < L. S + 1 - w = sum [p_draft - w p_target]+, so both sides are sums of one sign.
TAPOUT_HD bool block_accepts(double uniform, double residual, double weight) {
  if (weight == 1.0 && residual == 0.0) return true;
  return uniform * (residual + (1.0 - weight)) < residual;
}

// S <= w, so a level i < L with u >= w is known not to hold before S is summed.
TAPOUT_HD bool block_may_accept(double uniform, double weight) { return uniform < weight; }

// Level L, the whole draft.
TAPOUT_HD bool block_accepts_all(double uniform, double weight) { return uniform < weight; }

constexpr double kTypicalEpsilon = 0.3;
constexpr double kTypicalDelta = 0.09;
constexpr double kEarsBeta = 0.3;
constexpr double kConsultantBeta = 0.2;
constexpr double kConsultantEpsilon = 2.0;
constexpr double kFlyTheta = 0.3;
constexpr int64_t kFlyWindow = 6;
constexpr double kHalfLn2 = 0.34657359027997264;

TAPOUT_HD bool typical_accepts(double p_target, double entropy) {
  const double limit = kTypicalDelta * exp(-entropy);
  return p_target > (limit < kTypicalEpsilon ? limit : kTypicalEpsilon);
}

TAPOUT_HD double ears_tolerance(double top_prob) { return kEarsBeta * (1.0 - top_prob); }

TAPOUT_HD bool ears_accepts(double uniform, double p_target, double p_draft, double tolerance) {
  return p_target > 0.0 && (uniform - tolerance) * p_draft < p_target;
}

TAPOUT_HD double ears_probability(double p_target, double p_draft, double tolerance) {
  if (!(p_target > 0.0)) return 0.0;
  const double sum = p_target / p_draft + tolerance;
  return sum < 1.0 ? sum : 1.0;
}

TAPOUT_HD double consultant_doubt(double doubt, double p_target) {
  return kConsultantBeta * doubt - (1.0 - kConsultantBeta) * log(p_target);
}

TAPOUT_HD bool consultant_accepts(double doubt) { return doubt <= kConsultantEpsilon; }

TAPOUT_HD bool fly_unsure(double entropy, int64_t vocab) {
  return entropy >= kFlyTheta * log(static_cast<double>(vocab));
}

// One id's part of the Jensen-Shannon divergence. No part is negative, so their sum cannot cancel.
TAPOUT_HD double divergence_term(double p_target, double p_draft) {
  const double sum = p_target + p_draft;
  const double d = sum > 0.0 ? (p_target - p_draft) / sum : 0.0;
  if (d <= -1.0 || d >= 1.0) return kHalfLn2 * sum;  // 0 ln 0 is 0
  return 0.25 * sum * ((1.0 + d) * log1p(d) + (1.0 - d) * log1p(-d));
}

// The divergence from a one-hot draft of x.
TAPOUT_HD double one_hot_divergence(double p_target) {
  return divergence_term(p_target, 1.0) + kHalfLn2 * (1.0 - p_target);
}

TAPOUT_HD double divergence_root(double divergence) {
  return divergence > 0.0 ? sqrt(divergence) : 0.0;
}

// `memory` is a row of lossy_memory: sum and count of accepted distances, then of rejected ones.
TAPOUT_HD double adasd_threshold(const double* memory) {
  if (!(memory[1] > 0.0 && memory[3] > 0.0)) return -1.0;  // below every distance
  return 0.5 * (memory[0] / memory[1] + memory[2] / memory[3]);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
