// Decoding once more from a table of what every drafter would have said at every position.
//
// Where the target's output does not depend on who drafted (greedy, gumbel), a round at position p
// with drafter d and length n emits min(n, accepted[p, d]) + 1 tokens, whatever came before. So a
// policy is replayed exactly: the statistics say where its arm stops, `accepted` what that brings.
//
//   cost of a round = verify[b, 0] + sum over rows of (verify[b, n] - verify[b, 0]) / b
//                   + sum over drafters and slots of draft[rows still drafting, d]
//                   + sum over rows that drafted of behind * catch_up[d]
//   b: requests decoded together;  n: a row's draft;  behind: tokens since the row's last draft by
//   that drafter. Of a hedge over drafters all of them follow: in place of the last sum, over rows
//   that go on, emitted * the sum over arms of catch_up[d].  Padded: every row is charged as the
//   longest one is, verify[b, n_max] and draft[b, d] for each slot of the drafter's longest draft.
#pragma once

#include <stdint.h>

#include <vector>

#include "learner.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct DraftTable {
  int64_t positions, drafters, slots;
  const float* stats;       // [P, D, K, 8]
  const int32_t* offered;   // [P, D], tokens the drafter has to offer
  const int32_t* accepted;  // [P, D], how many of them the target would have said
  const int32_t* budget;    // [P], the longest draft allowed
  const int64_t* start;     // [R + 1], the first position of each request
  const bool* always;       // [D], drafters that are asked without an offer
};

struct RoundCosts {
  int64_t batch;           // the most requests the tables are for
  const double* verify;    // [batch, K + 1], by the longest draft
  const double* draft;     // [batch, D], of one step, by the rows that draft
  const double* catch_up;  // [D], of one token
  const float* ratio;      // [batch, D], what the bandit is told of a draft step's cost
  bool padded;             // rows of a batch have one length, the longest
};

struct Stream {
  const int64_t* requests;  // [N], in the order in which they are taken
  int64_t count;
  int64_t batch;  // together at most
};

// One row of one round. `accepted` is what the bandit learns from; a request that ends inside the
// block takes fewer tokens, `emitted`.
struct Turn {
  int32_t round, row, position, arm, drafter, drafted, accepted, emitted;
};
constexpr int64_t kTurnColumns = sizeof(Turn) / sizeof(int32_t);

struct Replayed {
  std::vector<Turn> turns;
  std::vector<double> cost;  // of each round
};

Replayed replay(const DraftTable& table, const ArmTable& arms, const BanditArrays& bandit,
                const RoundCosts& costs, const Stream& stream);

// The cheapest way to the end of its request from every position, for one request at a time and
// without catching up: no policy can be faster.
//   best[p] = min over d and n <= min(offered, budget) of
//             verify[n] + n draft[d] + best[p + min(n, accepted) + 1]
struct OraclePlan {
  double* best;      // [P]
  int32_t* drafter;  // [P]
  int32_t* drafted;  // [P]
};
void oracle(const DraftTable& table, int64_t requests, const RoundCosts& costs,
            const OraclePlan& plan);

}  // namespace TAPOUT_ISA
}  // namespace tapout
