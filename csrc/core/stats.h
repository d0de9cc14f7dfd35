// One pass gives every statistic. With x_v = (z_v - m) / T over the row:
//   m = max z,  s = sum e^x,  D = sum x e^x        lse = m/T + ln s,  H = ln s - D/s
// H is a sum of two non-negative terms; lse - mean(z)/T would cancel in f32. Pieces of a row form a
// monoid: with a_i = e^((m_i - m)/T),  s = sum a_i s_i,  D = sum a_i (D_i + s_i (m_i - m)/T).
#pragma once

#include <math.h>

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Moments {
  double max;
  double sum;
  double dev;   // D
  bool finite;  // no NaN and no +inf so far
};

struct Top2 {
  float first;
  float second;  // equal to first on a tie, -inf if there is one finite logit
};

TAPOUT_HD Moments empty_moments() { return {-INFINITY, 0.0, 0.0, true}; }

TAPOUT_HD Moments rescale(Moments piece, double max, double inv_temperature) {
  const double shift = (piece.max - max) * inv_temperature;
  const double factor = exp(shift);
  return {max, factor * piece.sum, factor * (piece.dev + shift * piece.sum), piece.finite};
}

TAPOUT_HD Moments merge(Moments left, Moments right, double inv_temperature) {
  const bool finite = left.finite && right.finite;
  // A piece without a finite logit contributes nothing; m_i - m would be NaN.
  if (right.max == -INFINITY) return {left.max, left.sum, left.dev, finite};
  if (left.max == -INFINITY) return {right.max, right.sum, right.dev, finite};
  if (left.max < right.max) left = rescale(left, right.max, inv_temperature);
  if (right.max < left.max) right = rescale(right, left.max, inv_temperature);
  return {left.max, left.sum + right.sum, left.dev + right.dev, finite};
}

TAPOUT_HD Top2 merge(Top2 left, Top2 right) {
  const float low = left.first < right.first ? left.first : right.first;
  const float second = left.second > right.second ? left.second : right.second;
  return {left.first > right.first ? left.first : right.first, low > second ? low : second};
}

TAPOUT_HD Status row_status(Moments row) {
  if (!row.finite) return Status::kNan;
  return row.max == -INFINITY ? Status::kEmpty : Status::kOk;
}

TAPOUT_HD double entropy(Moments row) { return log(row.sum) - row.dev / row.sum; }

// e^((z - m)/T) / s; 0 for z = -inf.
TAPOUT_HD double probability(double logit, double max, double inv_temperature, double sum) {
  return exp((logit - max) * inv_temperature) / sum;
}

TAPOUT_HD double log_probability(double logit, double max, double inv_temperature, double sum) {
  return (logit - max) * inv_temperature - log(sum);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
