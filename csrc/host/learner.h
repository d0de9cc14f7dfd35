// The arms and the bandit of a replay. All that is known here of the operators' Params: the rounds
// of a replay go through bandit_select and bandit_update themselves (csrc/cpu), compiled once more.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "../core/params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// A table of stop rules; each arm names drafters in turn.
struct ArmTable {
  int64_t arms;
  const int32_t* kind;     // [A]
  const float* param;      // [A, 4]
  const float* memory;     // [A, 4], what a request starts with
  const int32_t* drafter;  // [A, turns]
  int64_t turns;
  int64_t horizon;  // > 0: arms are drafters that a hedge judges by so many tokens of the text
};

// A BanditState of one group: updated in place.
struct BanditArrays {
  int64_t table_slots;  // K at token level, else 1
  double* count;        // [A] or [A, K], and the next two
  double* reward_sum;
  double* reward_sq;
  double* tokens;  // [A]
  double* cost;    // [A]
  int64_t* calls;
  const double* params;  // [8]
  const int64_t* seed;
  Policy policy;
  Reward reward;
};

struct Draft {
  int32_t length;
  StopReason reason;
};

// B rows that share a bandit, each with its own memory of the stop rules.
class Learner {
 public:
  Learner(const BanditArrays& bandit, const ArmTable& table, int64_t slots, int64_t batch);

  // A new request in `row`.
  void admit(int64_t row);

  // An arm for every live row.
  void select(const bool* live);

  // The arm of a row: at token level that of its first slot.
  int32_t arm(int64_t row) const { return arm_[static_cast<size_t>(row * table_slots_)]; }

  // What a row's arm was drawn with [A], at sequence level.
  const double* prob(int64_t row) const { return arm_prob_.data() + row * table_.arms; }

  // How long the row's arm drafts, given the statistics [K, 8] of `offered` tokens.
  Draft draft(int64_t row, const float* stats, int64_t offered, int64_t limit) const;

  // Say what became of a row's draft; `stats` as for it.
  void finish(int64_t row, Draft draft, int32_t accepted, const float* stats);

  // Learn from the rows of `live`, a draft step of which cost `cost_ratio` target forwards. Where
  // the text is learnt from instead, stop rules, tokens and cost alone.
  void update(const bool* live, float cost_ratio);

 private:
  void fill_select(const BanditArrays& bandit, int64_t slots, int64_t batch);
  void fill_update(const BanditArrays& bandit, int64_t slots, int64_t batch);

  ArmTable table_;
  int64_t table_slots_;
  Rules rules_;
  BanditSelectParams select_;
  BanditUpdateParams update_;
  std::vector<int32_t> arm_, length_, reason_, accepted_, status_, group_rows_;
  std::vector<float> memory_, stats_;     // stats_: [B, K, 8] of this round's drafts
  std::vector<double> arm_prob_, tally_;  // tally_: [3, A], of rounds that teach nothing
  std::vector<ScoredArm> scored_;
  std::vector<RuleLoss> losses_;
};

}  // namespace TAPOUT_ISA
}  // namespace tapout
