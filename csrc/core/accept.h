// Acceptance (Leviathan et al. 2023, Chen et al. 2023).
//   token    accept x iff u p_draft(x) < p_target(x); rejected: sample norm[p_target - p_draft]+
//   greedy   accept x iff x is the target's argmax
// A draft without logits is one-hot: p_draft(x) = 1.
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

// One entry of the residual (vectorised in cpu/draw.h).
TAPOUT_HD double residual_weight(double p_target, double p_draft) {
  return p_target > p_draft ? p_target - p_draft : 0.0;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
