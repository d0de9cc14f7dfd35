// Hedges over drafters (Not-a-Bandit, 2510.20064), as tapout_kernels/full_information.py has them:
// every position of the text is a loss of every arm's drafter, once the tokens after it are there.
//
//   AL = 1 + the drafts, of `horizon`, that would have been right one after the other, each with
//        the text before it;  f = 1 - AL / (horizon + 1)
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "replay.h"

namespace tapout {
inline namespace TAPOUT_ISA {

class FullInformation {
 public:
  FullInformation(const DraftTable& table, const ArmTable& arms, const BanditArrays& bandit);

  // A row whose request begins at `start` has come from position `from` to `to`; its last arm was
  // drawn with `prob` [A].
  void observe(int64_t start, int64_t from, int64_t to, const double* prob);

 private:
  // f of every arm at position t.
  void judge(int64_t t);
  // `loss` or, under normalhedge, what the weights of the draw lost beyond it.
  void credit(const double* prob);

  const DraftTable& table_;
  const ArmTable& arms_;
  BanditArrays bandit_;
  std::vector<double> loss_, gain_;  // [A]; [3, A], of count, reward_sum and reward_sq
};

}  // namespace TAPOUT_ISA
}  // namespace tapout
