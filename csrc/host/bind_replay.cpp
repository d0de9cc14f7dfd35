// replay and oracle for Python. Types and shapes are checked here, what the numbers say by the
// caller (tapout_kernels/replay.py); the loops run without the interpreter's lock.
#include "bind_replay.h"

#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "replay.h"

namespace tapout {
inline namespace TAPOUT_ISA {

static DraftTable draft_table(const Arrays& arrays) {
  DraftTable table = {};
  table.positions = arrays.size("stats", 0);
  table.drafters = arrays.size("stats", 1);
  table.slots = arrays.size("stats", 2);
  const std::vector<int64_t> each = {table.positions, table.drafters};
  table.stats = arrays.input<float>(
      "stats", {table.positions, table.drafters, table.slots, int64_t{kStatsColumns}});
  table.offered = arrays.input<int32_t>("offered", each);
  table.accepted = arrays.input<int32_t>("accepted", each);
  table.budget = arrays.input<int32_t>("budget", {table.positions});
  table.start = arrays.input<int64_t>("start", {-1});
  table.always = arrays.input<bool>("always", {table.drafters});
  return table;
}

static RoundCosts round_costs(const Arrays& arrays, const DraftTable& table, bool padded) {
  RoundCosts costs = {};
  costs.batch = arrays.size("verify_cost", 0);
  costs.verify = arrays.input<double>("verify_cost", {costs.batch, table.slots + 1});
  costs.draft = arrays.input<double>("draft_cost", {costs.batch, table.drafters});
  costs.catch_up = arrays.input<double>("catch_up_cost", {table.drafters});
  costs.ratio = arrays.input<float>("cost_ratio", {costs.batch, table.drafters});
  costs.padded = padded;
  return costs;
}

static ArmTable arm_table(const Arrays& arrays, int64_t horizon) {
  ArmTable arms = {};
  arms.arms = arrays.size("kind", 0);
  arms.turns = arrays.size("drafter", 1);
  arms.kind = arrays.input<int32_t>("kind", {arms.arms});
  arms.param = arrays.input<float>("param", {arms.arms, kRuleParams});
  arms.memory = arrays.input<float>("initial_memory", {arms.arms, kRuleParams});
  arms.drafter = arrays.input<int32_t>("drafter", {arms.arms, arms.turns});
  arms.horizon = horizon;
  return arms;
}

static BanditArrays bandit_arrays(const Arrays& arrays, int64_t arms, int64_t table_slots,
                                  int64_t policy, int64_t reward) {
  const std::vector<int64_t> cells = {arms * table_slots}, row = {arms};
  BanditArrays bandit = {};
  bandit.table_slots = table_slots;
  bandit.count = arrays.data<double>("count", cells);
  bandit.reward_sum = arrays.data<double>("reward_sum", cells);
  bandit.reward_sq = arrays.data<double>("reward_sq", cells);
  bandit.tokens = arrays.data<double>("tokens", row);
  bandit.cost = arrays.data<double>("cost", row);
  bandit.calls = arrays.data<int64_t>("calls", {1});
  bandit.params = arrays.input<double>("params", {kBanditParams});
  bandit.seed = arrays.input<int64_t>("seed", {1});
  bandit.policy = static_cast<Policy>(policy);
  bandit.reward = static_cast<Reward>(reward);
  return bandit;
}

// The vector as an array that owns it.
template <class T, class Item>
static py::array_t<T> owned(std::vector<Item>&& items, std::vector<py::ssize_t> shape) {
  auto* kept = new std::vector<Item>(std::move(items));
  const py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<Item>*>(p); });
  return py::array_t<T>(std::move(shape), reinterpret_cast<const T*>(kept->data()), owner);
}

static py::tuple as_arrays(Replayed&& played) {
  const auto turns = static_cast<py::ssize_t>(played.turns.size());
  const auto rounds = static_cast<py::ssize_t>(played.cost.size());
  const auto columns = static_cast<py::ssize_t>(kTurnColumns);
  auto table = owned<int32_t>(std::move(played.turns), {turns, columns});
  return py::make_tuple(table, owned<double>(std::move(played.cost), {rounds}));
}

static py::tuple replay_bound(const py::dict& inputs, int64_t batch, bool padded,
                              int64_t table_slots, int64_t policy, int64_t reward,
                              int64_t horizon) {
  const Arrays arrays("replay", inputs);
  const DraftTable table = draft_table(arrays);
  const RoundCosts costs = round_costs(arrays, table, padded);
  if (batch < 1 || batch > costs.batch) {
    throw py::value_error("replay: batch must be in [1, " + std::to_string(costs.batch) +
                          "], the rows of verify_cost, got " + std::to_string(batch));
  }
  const ArmTable arms = arm_table(arrays, horizon);
  const BanditArrays bandit = bandit_arrays(arrays, arms.arms, table_slots, policy, reward);
  Stream stream = {};
  stream.requests = arrays.input<int64_t>("requests", {-1});
  stream.count = arrays.size("requests", 0);
  stream.batch = batch;
  Replayed played;
  {
    const py::gil_scoped_release unlocked;
    played = replay(table, arms, bandit, costs, stream);
  }
  return as_arrays(std::move(played));
}

static py::tuple oracle_bound(const py::dict& inputs) {
  const Arrays arrays("oracle", inputs);
  const DraftTable table = draft_table(arrays);
  const RoundCosts costs = round_costs(arrays, table, false);
  py::array_t<double> best(table.positions);
  py::array_t<int32_t> drafter(table.positions), drafted(table.positions);
  const int64_t requests = arrays.size("start", 0) - 1;
  const OraclePlan plan = {best.mutable_data(), drafter.mutable_data(), drafted.mutable_data()};
  {
    const py::gil_scoped_release unlocked;
    oracle(table, requests, costs, plan);
  }
  return py::make_tuple(best, drafter, drafted);
}

void bind_replay(py::module_& module) {
  module.def("replay", &replay_bound, py::arg("arrays"), py::arg("batch"), py::arg("padded"),
             py::arg("table_slots"), py::arg("policy"), py::arg("reward"), py::arg("horizon"),
             "Play a policy over a table of drafts: (turns [n, 8] int32, cost of each round).");
  module.def("oracle", &oracle_bound, py::arg("arrays"),
             "The cheapest choices: (cost to the request's end, drafter, length), [P] each.");
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
