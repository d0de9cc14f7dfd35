#include "learner.h"

#include <algorithm>

#include "../core/stop.h"
#include "../cpu/ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static size_t size(int64_t n) { return static_cast<size_t>(n); }

static BanditTables tables_of(const BanditArrays& bandit, int64_t arms) {
  return {1,
          arms,
          bandit.table_slots,
          bandit.count,
          bandit.reward_sum,
          bandit.reward_sq,
          bandit.tokens,
          bandit.cost,
          bandit.params};
}

Learner::Learner(const BanditArrays& bandit, const ArmTable& table, int64_t slots, int64_t batch)
    : table_(table),
      table_slots_(bandit.table_slots),
      select_(),
      update_(),
      arm_(size(batch * bandit.table_slots)),
      length_(size(batch)),
      reason_(size(batch)),
      accepted_(size(batch)),
      status_(size(batch)),  // every verified round is OK
      group_rows_(1),
      memory_(size(batch * table.arms * kRuleParams)),
      stats_(size(batch * slots * kStatsColumns)),
      arm_prob_(size(batch * table.arms * bandit.table_slots)),
      tally_(size(table.horizon > 0 ? 3 * table.arms : 0)),
      scored_(size(bandit.table_slots * table.arms)),
      losses_(size(table.arms)) {
  rules_ = {table.kind, table.param, arm_.data(), memory_.data(), table.arms, table_slots_};
  fill_select(bandit, slots, batch);
  fill_update(bandit, slots, batch);
}

void Learner::fill_select(const BanditArrays& bandit, int64_t slots, int64_t batch) {
  select_.batch = batch;
  select_.slots = slots;
  select_.rows = {nullptr, batch};
  select_.tables = tables_of(bandit, table_.arms);
  select_.seed = bandit.seed;
  select_.policy = bandit.policy;
  select_.reward = bandit.reward;
  select_.calls = bandit.calls;
  select_.arm = arm_.data();
  select_.arm_prob = arm_prob_.data();
  select_.group_rows = group_rows_.data();
  select_.scored = scored_.data();
}

void Learner::fill_update(const BanditArrays& bandit, int64_t slots, int64_t batch) {
  update_.batch = batch;
  update_.slots = slots;
  update_.groups = 1;
  update_.arms = table_.arms;
  update_.table_slots = table_slots_;
  update_.rows = {nullptr, batch};
  update_.arm = arm_.data();
  update_.length = length_.data();
  update_.stats = stats_.data();
  update_.stop_reason = reason_.data();
  update_.num_accepted = accepted_.data();
  update_.status = status_.data();
  update_.params = bandit.params;
  update_.policy = bandit.policy;
  update_.reward = bandit.reward;
  update_.arm_prob = arm_prob_.data();
  update_.rule_kind = table_.kind;
  update_.rule_param = table_.param;
  update_.count = bandit.count;
  update_.reward_sum = bandit.reward_sum;
  update_.reward_sq = bandit.reward_sq;
  update_.tokens = bandit.tokens;
  update_.cost = bandit.cost;
  update_.memory = memory_.data();
  update_.losses = losses_.data();
  if (table_.horizon == 0) return;
  update_.policy = Policy::kFixed;
  update_.count = tally_.data();
  update_.reward_sum = tally_.data() + table_.arms;
  update_.reward_sq = tally_.data() + 2 * table_.arms;
}

void Learner::admit(int64_t row) {
  const int64_t entries = table_.arms * kRuleParams;
  std::copy_n(table_.memory, entries, memory_.begin() + row * entries);
}

void Learner::select(const bool* live) {
  select_.live = live;
  group_rows_[0] = 0;
  bandit_select(select_);
}

Draft Learner::draft(int64_t row, const float* stats, int64_t offered, int64_t limit) const {
  if (stops_before_drafting(rules_, row)) return {0, StopReason::kPreDraft};
  if (limit <= 0) return {0, StopReason::kMaxLength};
  const int32_t available = static_cast<int32_t>(offered < limit ? offered : limit);
  for (int32_t j = 0; j < available; ++j, stats += kStatsColumns) {
    if (stops_after(rules_, row, j, stats)) return {j + 1, StopReason::kRule};
  }
  return {available, available == limit ? StopReason::kMaxLength : StopReason::kNone};
}

void Learner::finish(int64_t row, Draft draft, int32_t accepted, const float* stats) {
  const int64_t entries = select_.slots * kStatsColumns;
  std::copy_n(stats, draft.length * kStatsColumns, stats_.begin() + row * entries);
  length_[size(row)] = draft.length;
  reason_[size(row)] = static_cast<int32_t>(draft.reason);
  accepted_[size(row)] = accepted;
}

void Learner::update(const bool* live, float cost_ratio) {
  update_.live = live;
  update_.cost_ratio = &cost_ratio;
  bandit_update(update_);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
