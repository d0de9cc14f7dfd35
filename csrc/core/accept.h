// Acceptance. A draft without logits is one-hot: p_draft(x) = 1.
//   token    (Leviathan et al. 2211.17192, Chen et al. 2302.01318) accept x iff
//            u p_draft(x) < p_target(x); rejected: sample norm[p_target - p_draft]+
//   block    (Sun et al. 2403.10444) w_0 = 1, w_i = min(1, w_{i-1} p_target(x_i) / p_draft(x_i)),
//            S_i = sum [w_i p_target - p_draft]+ over the row that follows x_i. Level i < L holds
//            iff u (S_i + 1 - w_i) < S_i, or w_i = 1 and S_i = 0; level L iff u < w_L. The largest
//            level that holds is accepted, none is 0; below L: sample norm[w_i p_target - p_draft]+
//   gumbel   accept x iff it is the target's own token (rng.h)
//   greedy   accept x iff it is the target's argmax
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

}  // namespace TAPOUT_ISA
}  // namespace tapout
