// What a finished round does to the memory of the stop rule that ran, in float64, kept in float32.
// A token is judged if it was accepted or is the first rejected.
//   adaedl         (lambda, AR)      AR <- AR/2 + n_acc/n_draft/2;  lambda' = lambda + .01 if AR <
//   .9,
//                                    else lambda - .01 unless every slot was drafted;
//                                    lambda <- .9 lambda + .1 lambda'       (the Draft&Verify code)
//   gammatune(+)   (gamma, mean)     n_acc = gamma: gamma <- min(gamma + delta, K); else
//                                    mean <- clip((1 - eta) mean + eta n_acc, 1, K),
//                                    gamma <- ceil(mean)                              (2504.00030)
//   heuristic      (n)               n + 2 if every draft was accepted, else n - 1; in [1, K]
//   hysteresis     (E, off, idle)    E <- (1 - alpha) E + alpha H for every judged token;
//                                    off above high, on below low; idle: rounds it refused
//   adasd_entropy  (n, mean, n, mean)    of H, over accepted and over rejected tokens
//   adl            (k, gen, acc)     gen <- (1 - rho) gen + rho n_draft, acc likewise of n_acc;
//                                    k <- clip(ceil(gen) + delta [acc >= gen], shortest, longest)
//                                                                                     (2510.02358)
// The others remember nothing here. Only hysteresis learns from a round that drafted nothing.
#pragma once

#include <math.h>

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct FinishedRound {
  double accepted;
  double drafted;
  double slots;
  bool refused;        // the pre-draft test ended it
  const float* stats;  // [K, 8]
};

TAPOUT_HD double clip(double value, double low, double high) {
  const double raised = value < low ? low : value;
  return raised > high ? high : raised;
}

TAPOUT_HD double judged_entropy(const FinishedRound& round, int64_t slot) {
  const double value = round.stats[slot * kStatsColumns + kEntropy];
  return value > 0.0 ? value : 0.0;
}

TAPOUT_HD int64_t judged_tokens(const FinishedRound& round) {
  const double inside = round.drafted < round.slots ? round.drafted : round.slots;
  return static_cast<int64_t>(round.accepted + 1.0 < inside ? round.accepted + 1.0 : inside);
}

TAPOUT_HD void adaedl_update(float* memory, const FinishedRound& round) {
  const double rate = 0.5 * memory[1] + 0.5 * round.accepted / round.drafted;
  const double lambda = memory[0];
  double goal = lambda;
  if (rate < 0.9) {
    goal = lambda + 0.01;
  } else if (round.drafted != round.slots) {
    goal = lambda - 0.01;
  }
  memory[0] = static_cast<float>(0.9 * lambda + 0.1 * goal);
  memory[1] = static_cast<float>(rate);
}

TAPOUT_HD void gammatune_update(float* memory, const float* param, const FinishedRound& round) {
  const double gamma = memory[0], delta = param[1], eta = param[2];
  if (round.accepted >= gamma) {
    memory[0] = static_cast<float>(clip(gamma + delta, 1.0, round.slots));
    return;
  }
  const double mean = (1.0 - eta) * memory[1] + eta * round.accepted;
  memory[1] = static_cast<float>(clip(mean, 1.0, round.slots));
  memory[0] = ceilf(memory[1]);  // of what is kept, so that a hair is no token more
}

TAPOUT_HD void heuristic_update(float* memory, const FinishedRound& round) {
  const double length = memory[0] + (round.accepted >= round.drafted ? 2.0 : -1.0);
  memory[0] = static_cast<float>(clip(length, 1.0, round.slots));
}

TAPOUT_HD void hysteresis_update(float* memory, const float* param, const FinishedRound& round) {
  if (round.refused) {
    memory[2] += 1.0f;
    return;
  }
  double mean = memory[0];
  const double alpha = param[2];
  for (int64_t slot = 0; slot < judged_tokens(round); ++slot) {
    mean = (1.0 - alpha) * mean + alpha * judged_entropy(round, slot);
  }
  memory[0] = static_cast<float>(mean);
  memory[1] = memory[0] > param[0] ? 1.0f : memory[0] < param[1] ? 0.0f : memory[1];
  memory[2] = 0.0f;
}

TAPOUT_HD void adasd_update(float* memory, const FinishedRound& round) {
  double hits = memory[0], hit_mean = memory[1], misses = memory[2], miss_mean = memory[3];
  for (int64_t slot = 0; slot < judged_tokens(round); ++slot) {
    const double entropy = judged_entropy(round, slot);
    if (static_cast<double>(slot) < round.accepted) {
      hits += 1.0;
      hit_mean += (entropy - hit_mean) / hits;
    } else {
      misses += 1.0;
      miss_mean += (entropy - miss_mean) / misses;
    }
  }
  memory[0] = static_cast<float>(hits);
  memory[1] = static_cast<float>(hit_mean);
  memory[2] = static_cast<float>(misses);
  memory[3] = static_cast<float>(miss_mean);
}

TAPOUT_HD void adl_update(float* memory, const float* param, const FinishedRound& round) {
  const double rho = param[0];
  memory[1] = static_cast<float>((1.0 - rho) * memory[1] + rho * round.drafted);
  memory[2] = static_cast<float>((1.0 - rho) * memory[2] + rho * round.accepted);
  const double grown = memory[2] >= memory[1] ? param[1] : 0.0;
  memory[0] = static_cast<float>(clip(ceilf(memory[1]) + grown, param[2], param[3]));
}

// `param` and `memory` are the arm's own four.
TAPOUT_HD void update_memory(StopKind kind, const float* param, float* memory,
                             const FinishedRound& round) {
  if (kind == StopKind::kHysteresis && (round.refused || round.drafted > 0.0)) {
    return hysteresis_update(memory, param, round);
  }
  if (!(round.drafted > 0.0)) return;
  switch (kind) {
    case StopKind::kAdaEdl: return adaedl_update(memory, round);
    case StopKind::kGammaTune:
    case StopKind::kGammaTunePlus: return gammatune_update(memory, param, round);
    case StopKind::kHeuristic: return heuristic_update(memory, round);
    case StopKind::kAdaSdEntropy: return adasd_update(memory, round);
    case StopKind::kAdl: return adl_update(memory, param, round);
    default: return;
  }
}

// Batch row b ran `arm`, one of the table; `row` is its row of state.
TAPOUT_HD void remember(const BanditUpdateParams& params, int64_t b, int64_t row, int64_t arm) {
  if (!params.memory || !params.rule_kind) return;
  const double drafted = params.length[b];
  const StopReason reason = static_cast<StopReason>(params.stop_reason[b]);
  const FinishedRound round = {static_cast<double>(params.num_accepted[b]), drafted,
                               static_cast<double>(params.slots),
                               reason == StopReason::kPreDraft && !(drafted > 0.0),
                               params.stats + b * params.slots * kStatsColumns};
  update_memory(static_cast<StopKind>(params.rule_kind[arm]), params.rule_param + arm * kRuleParams,
                params.memory + (row * params.arms + arm) * kRuleParams, round);
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
