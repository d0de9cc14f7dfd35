#include "full_information.h"

#include <algorithm>

namespace tapout {
inline namespace TAPOUT_ISA {

FullInformation::FullInformation(const DraftTable& table, const ArmTable& arms,
                                 const BanditArrays& bandit)
    : table_(table),
      arms_(arms),
      bandit_(bandit),
      loss_(static_cast<size_t>(arms.arms)),
      gain_(static_cast<size_t>(3 * arms.arms)) {}

void FullInformation::judge(int64_t t) {
  const double longest = static_cast<double>(arms_.horizon + 1);
  for (int64_t a = 0; a < arms_.arms; ++a) {
    const int64_t drafter = arms_.drafter[a * arms_.turns];
    int64_t right = 0;
    while (right < arms_.horizon && table_.accepted[(t + right) * table_.drafters + drafter] > 0) {
      ++right;
    }
    loss_[static_cast<size_t>(a)] = 1.0 - static_cast<double>(1 + right) / longest;
  }
}

void FullInformation::credit(const double* prob) {
  const double discount = bandit_.params[kDiscount], arms = static_cast<double>(arms_.arms);
  const double share = 1.0 / arms, epsilon = bandit_.params[kPolicyParam];
  const bool regrets = bandit_.policy == Policy::kNormalHedge;
  double own = 0.0;
  for (int64_t a = 0; regrets && a < arms_.arms; ++a) {
    own += (prob[a] - epsilon / arms) / (1.0 - epsilon) * loss_[static_cast<size_t>(a)];
  }
  for (int64_t a = 0; a < arms_.arms; ++a) {
    const double loss = loss_[static_cast<size_t>(a)];
    const double added[] = {share, (1.0 - loss) * share, regrets ? own - loss : loss};
    for (int64_t i = 0; i < 3; ++i) {
      double& gain = gain_[static_cast<size_t>(i * arms_.arms + a)];
      gain = gain * discount + added[i];
    }
  }
}

void FullInformation::observe(int64_t start, int64_t from, int64_t to, const double* prob) {
  double keep = 1.0;
  std::fill(gain_.begin(), gain_.end(), 0.0);
  for (int64_t t = std::max(start, from - arms_.horizon + 1); t + arms_.horizon <= to; ++t) {
    judge(t);
    credit(prob);
    keep *= bandit_.params[kDiscount];
  }
  double* const tables[] = {bandit_.count, bandit_.reward_sum, bandit_.reward_sq};
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t a = 0; a < arms_.arms; ++a) {
      tables[i][a] = tables[i][a] * keep + gain_[static_cast<size_t>(i * arms_.arms + a)];
    }
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
