#include "replay.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "full_information.h"

namespace tapout {
inline namespace TAPOUT_ISA {

namespace {

struct Row {
  int64_t start, position, end;
};

class Run {
 public:
  Run(const DraftTable& table, const ArmTable& arms, const BanditArrays& bandit,
      const RoundCosts& costs, const Stream& stream)
      : table_(table),
        arms_(arms),
        costs_(costs),
        stream_(stream),
        learner_(bandit, arms, table.slots, stream.batch),
        text_(table, arms, bandit),
        rows_(static_cast<size_t>(stream.batch), Row{0, 0, 0}),
        read_(static_cast<size_t>(stream.batch * table.drafters)),
        flags_(new bool[static_cast<size_t>(2 * stream.batch)]()),
        live_(flags_.get()),
        lane_(live_ + stream.batch),
        drafting_(static_cast<size_t>(table.drafters * table.slots)) {
    int64_t most = 0;  // every round of a request emits something
    for (int64_t i = 0; i < stream.count; ++i) {
      most += table.start[stream.requests[i] + 1] - table.start[stream.requests[i]];
    }
    played_.turns.reserve(static_cast<size_t>(most));
    played_.cost.reserve(static_cast<size_t>(most));
  }

  Replayed all() {
    while (admit() > 0) round();
    return std::move(played_);
  }

 private:
  // Free rows take the next requests; returns how many rows are decoding.
  int64_t admit() {
    alive_ = 0;
    for (int64_t b = 0; b < stream_.batch; ++b) {
      Row& row = rows_[static_cast<size_t>(b)];
      while (row.position == row.end && next_ < stream_.count) {
        const int64_t request = stream_.requests[next_++];
        row = {table_.start[request], table_.start[request], table_.start[request + 1]};
        std::fill_n(&read_[static_cast<size_t>(b * table_.drafters)], table_.drafters,
                    row.position);
        learner_.admit(b);
      }
      live_[b] = row.position < row.end;
      alive_ += live_[b];
    }
    return alive_;
  }

  // The first drafter of an arm that has something to offer, else the last.
  int64_t drafter_of(int32_t arm, int64_t position) const {
    const int32_t* turn = arms_.drafter + (arm < 0 ? 0 : arm) * arms_.turns;
    const int32_t* offered = table_.offered + position * table_.drafters;
    int64_t i = 0;
    while (i + 1 < arms_.turns && !table_.always[turn[i]] && offered[turn[i]] == 0) ++i;
    return turn[i];
  }

  Turn play(int64_t b) {
    const Row& row = rows_[static_cast<size_t>(b)];
    const int64_t p = row.position;
    const int32_t arm = learner_.arm(b);
    const int64_t d = drafter_of(arm, p), cell = p * table_.drafters + d;
    const float* stats = table_.stats + cell * table_.slots * kStatsColumns;
    const int64_t limit = std::min<int64_t>(table_.budget[p], table_.slots);
    const Draft draft = learner_.draft(b, stats, table_.offered[cell], limit);
    const int32_t accepted = std::min(table_.accepted[cell], draft.length);
    learner_.finish(b, draft, accepted, stats);
    const int32_t emitted = static_cast<int32_t>(std::min<int64_t>(accepted + 1, row.end - p));
    return {static_cast<int32_t>(played_.cost.size()),
            static_cast<int32_t>(b),
            static_cast<int32_t>(p),
            arm,
            static_cast<int32_t>(d),
            draft.length,
            accepted,
            emitted};
  }

  // What the next round reads first comes from memory while the bandit thinks.
  void prefetch(int64_t position) const {
    const int64_t cell = position * table_.drafters, row = table_.slots * kStatsColumns;
    for (int64_t d = 0; d < table_.drafters; ++d) {
      __builtin_prefetch(table_.stats + (cell + d) * row);
    }
  }

  // Move a row on; returns what its drafter paid to catch up, or all of them where they follow.
  double advance(const Turn& turn) {
    Row& row = rows_[static_cast<size_t>(turn.row)];
    row.position += turn.emitted;
    if (row.position < row.end) prefetch(row.position);
    if (arms_.horizon > 0) return row.position < row.end ? following(turn.emitted) : 0.0;
    if (turn.drafted == 0) return 0.0;
    int64_t& read = read_[static_cast<size_t>(turn.row * table_.drafters + turn.drafter)];
    const double behind = static_cast<double>(turn.position - read);
    read = row.position;
    return behind * costs_.catch_up[turn.drafter];
  }

  // What the drafters of all arms pay for reading some tokens.
  double following(int32_t tokens) const {
    double cost = 0.0;
    for (int64_t a = 0; a < arms_.arms; ++a) {
      cost += costs_.catch_up[arms_.drafter[a * arms_.turns]];
    }
    return static_cast<double>(tokens) * cost;
  }

  void round() {
    learner_.select(live_);
    const size_t first = played_.turns.size();
    double cost = 0.0;
    for (int64_t b = 0; b < stream_.batch; ++b) {
      if (!live_[b]) continue;
      const Turn turn = play(b);
      cost += advance(turn);
      played_.turns.push_back(turn);
    }
    played_.cost.push_back(cost + drafting(first) + verifying(first));
    for (int64_t d = 0; d < table_.drafters; ++d) learn(first, d);
    if (arms_.horizon > 0) observe(first);
  }

  // Of a request that ends, its last round is not looked at.
  void observe(size_t first) {
    for (size_t i = first; i < played_.turns.size(); ++i) {
      const Turn& turn = played_.turns[i];
      const Row& row = rows_[static_cast<size_t>(turn.row)];
      if (row.position == row.end) continue;
      text_.observe(row.start, turn.position, row.position, learner_.prob(turn.row));
    }
  }

  double verifying(size_t first) const {
    const double* verify = costs_.verify + (alive_ - 1) * (table_.slots + 1);
    double more = 0.0;
    int32_t longest = 0;
    for (size_t i = first; i < played_.turns.size(); ++i) {
      const int32_t drafted = played_.turns[i].drafted;
      more += verify[drafted] - verify[0];
      longest = std::max(longest, drafted);
    }
    return costs_.padded ? verify[longest] : verify[0] + more / static_cast<double>(alive_);
  }

  double drafting(size_t first) {
    std::fill(drafting_.begin(), drafting_.end(), 0);
    for (size_t i = first; i < played_.turns.size(); ++i) {
      const Turn& turn = played_.turns[i];
      int32_t* rows = &drafting_[static_cast<size_t>(turn.drafter * table_.slots)];
      for (int32_t j = 0; j < turn.drafted; ++j) ++rows[j];
    }
    double cost = 0.0;
    for (int64_t d = 0; d < table_.drafters; ++d) {
      const int32_t* rows = &drafting_[static_cast<size_t>(d * table_.slots)];
      for (int64_t j = 0; j < table_.slots && rows[j] > 0; ++j) {
        const int64_t together = costs_.padded ? alive_ : rows[j];
        cost += costs_.draft[(together - 1) * table_.drafters + d];
      }
    }
    return cost;
  }

  // Drafter after drafter, as the decoder's lanes do.
  void learn(size_t first, int64_t drafter) {
    bool any = false;
    std::fill_n(lane_, stream_.batch, false);
    for (size_t i = first; i < played_.turns.size(); ++i) {
      const bool mine = played_.turns[i].drafter == drafter;
      lane_[played_.turns[i].row] = mine;
      any |= mine;
    }
    if (any) learner_.update(lane_, costs_.ratio[(alive_ - 1) * table_.drafters + drafter]);
  }

  const DraftTable& table_;
  const ArmTable& arms_;
  const RoundCosts& costs_;
  const Stream& stream_;
  Learner learner_;
  FullInformation text_;
  std::vector<Row> rows_;
  std::vector<int64_t> read_;  // [batch, D], the position up to which each drafter has read
  std::unique_ptr<bool[]> flags_;
  bool* live_;                     // [batch], and
  bool* lane_;                     // [batch], the rows of one drafter
  std::vector<int32_t> drafting_;  // [D, K], rows that draft so far
  Replayed played_;
  int64_t next_ = 0, alive_ = 0;
};

}  // namespace

Replayed replay(const DraftTable& table, const ArmTable& arms, const BanditArrays& bandit,
                const RoundCosts& costs, const Stream& stream) {
  return Run(table, arms, bandit, costs, stream).all();
}

static void plan_position(const DraftTable& table, const RoundCosts& costs, int64_t p, int64_t end,
                          const OraclePlan& plan) {
  const int64_t budget = std::min<int64_t>(table.budget[p], table.slots);
  bool found = false;
  for (int64_t d = 0; d < table.drafters; ++d) {
    const int64_t cell = p * table.drafters + d;
    const int64_t longest = std::min<int64_t>(table.offered[cell], budget);
    for (int64_t n = 0; n <= longest; ++n) {
      const int64_t next = p + std::min<int64_t>(n, table.accepted[cell]) + 1;
      const double cost = costs.verify[n] + static_cast<double>(n) * costs.draft[d] +
                          (next < end ? plan.best[next] : 0.0);
      if (found && cost >= plan.best[p]) continue;
      found = true;
      plan.best[p] = cost;
      plan.drafter[p] = static_cast<int32_t>(d);
      plan.drafted[p] = static_cast<int32_t>(n);
    }
  }
}

void oracle(const DraftTable& table, int64_t requests, const RoundCosts& costs,
            const OraclePlan& plan) {
  for (int64_t r = 0; r < requests; ++r) {
    for (int64_t p = table.start[r + 1] - 1; p >= table.start[r]; --p) {
      plan_position(table, costs, p, table.start[r + 1], plan);
    }
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
