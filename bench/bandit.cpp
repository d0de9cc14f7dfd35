// bandit_update and bandit_select alone, without Python, checks or dispatch:
//   bandit BATCH ARMS ROUNDS -> the arms after the last round, then the nanoseconds of each round.
// One group under ucb1 and the blended reward, as bandit_native.py runs it on the reference.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../csrc/cpu/bandit_select.cpp"
#include "../csrc/cpu/bandit_update.cpp"

using namespace tapout;

constexpr int64_t kSlots = 5;

struct Episode {
  int64_t batch, arms;
  std::vector<double> table[5];                    // count, reward_sum, reward_sq, tokens, cost
  double params[kBanditParams] = {0.5, 1.0, 1.0};  // alpha, exploration, discount
  float cost_ratio = 0.1f;
  std::vector<int32_t> arm, length, status, num_accepted;
  std::vector<ScoredArm> scored;
  int64_t seed = 0, calls = 0;
  int32_t group_rows = 0;
};

static void begin(Episode& episode, int64_t batch, int64_t arms) {
  episode.batch = batch;
  episode.arms = arms;
  for (auto& table : episode.table) table.assign(arms, 0.0);
  episode.arm.assign(batch, 0);
  episode.length.assign(batch, kSlots);
  episode.status.assign(batch, 0);
  for (int64_t b = 0; b < batch; ++b) episode.num_accepted.push_back(b % (kSlots + 1));
  episode.scored.resize(arms);
}

static BanditUpdateParams update_params(Episode& episode) {
  BanditUpdateParams params = {};
  params.batch = episode.batch;
  params.slots = kSlots;
  params.groups = params.table_slots = 1;
  params.arms = episode.arms;
  params.rows.count = episode.batch;
  params.arm = episode.arm.data();
  params.length = episode.length.data();
  params.num_accepted = episode.num_accepted.data();
  params.status = episode.status.data();
  params.params = episode.params;
  params.cost_ratio = &episode.cost_ratio;
  params.reward = Reward::kBlend;
  double** const tables[5] = {&params.count, &params.reward_sum, &params.reward_sq, &params.tokens,
                              &params.cost};
  for (int i = 0; i < 5; ++i) *tables[i] = episode.table[i].data();
  return params;
}

static BanditSelectParams select_params(Episode& episode) {
  const std::vector<double>* table = episode.table;
  BanditSelectParams params = {};
  params.batch = episode.batch;
  params.rows.count = episode.batch;
  params.tables = {1,
                   episode.arms,
                   1,
                   table[0].data(),
                   table[1].data(),
                   table[2].data(),
                   table[3].data(),
                   table[4].data(),
                   episode.params};
  params.seed = &episode.seed;
  params.policy = Policy::kUcb1;
  params.reward = Reward::kBlend;
  params.slots = kSlots;
  params.calls = &episode.calls;
  params.arm = episode.arm.data();
  params.group_rows = &episode.group_rows;
  params.scored = episode.scored.data();
  return params;
}

int main(int, char** argv) {
  Episode episode;
  begin(episode, atoll(argv[1]), atoll(argv[2]));
  const BanditUpdateParams update = update_params(episode);
  const BanditSelectParams select = select_params(episode);
  std::vector<long long> nanoseconds(atoll(argv[3]));
  for (long long& elapsed : nanoseconds) {
    const auto start = std::chrono::steady_clock::now();
    bandit_update(update);
    bandit_select(select);
    elapsed = (std::chrono::steady_clock::now() - start).count();
  }
  for (const int32_t arm : episode.arm) printf("%d ", arm);
  printf("\n");
  for (const long long elapsed : nanoseconds) printf("%lld ", elapsed);
  printf("\n");
}
