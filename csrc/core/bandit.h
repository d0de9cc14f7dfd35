// A bandit over stop rules (TapOut, 2511.02017): a table of arms for every group, at token level
// one for every slot too. Of an arm, by completed pulls: n, mean = reward_sum / n (0 untried), var.
//   ucb1               mean + c sqrt(2 ln t / n)                                 (Auer et al. 2002)
//   ucb_tuned          mean + sqrt(ln t / n min(1/4, var + sqrt(2 ln t / n)))
//   ucbspec            mean + 1/2 sqrt((1 + n) / n^2 (1 + 2 ln(A t^2 sqrt(1 + n) / delta)))
//       (BanditSpec, 2505.15141, every score divided by the range L = K of its reward n_acc + 1:
//       mean is that of n_acc / K, and a constant is left out)
//       in these n counts this call's pulls too, n = 0 scores +inf, t = max(1, pulls + rows of the
//       call)
//   thompson_gaussian  N((1/2 + reward_sum) / (n + 1), sigma^2 / (n + 1))
//   thompson_beta      Beta(1 + reward_sum, 1 + n - reward_sum)   (Marsaglia and Tsang 2000)
//   epsilon_greedy     any arm with probability epsilon, else the best mean (+inf untried)
// The best score wins, the lowest arm on ties.
//   simple = n_acc / K;  blend = alpha n_acc / K + (1 - alpha) n_acc / n_draft;  0 undrafted
//   overlap = sum over drafted slots of sum min(p_target, p_draft) / K   (MetaSD, 2604.05417)
//   throughput: mean = clip(1/2 + (tokens - rate cost) / (2 (K + 1) n), 0, 1), rate = the group's
//       tokens / cost (1 at first), tokens = n_acc + 1, cost = 1 + cost_ratio n_draft
#pragma once

#include <math.h>

#include "macros.h"
#include "params.h"
#include "rng.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int64_t kGammaTries = 8;              // of a variate; each takes two draws
constexpr int64_t kArmDraws = 4 * kGammaTries;  // addresses an arm owns
constexpr double kTwoPi = 6.283185307179586477;

// ---- what is known of an arm ------------------------------------------------------------------

// Completed pulls; the mean of an arm never pulled is 0.
struct ArmValue {
  double count;
  double reward_sum;
  double mean;
  double variance;
};

TAPOUT_HD int64_t bandit_cell(const BanditTables& tables, int64_t group, int64_t arm,
                              int64_t slot) {
  return (group * tables.arms + arm) * tables.table_slots + slot;
}

// The group's tokens per cost.
TAPOUT_HD double token_rate(const BanditTables& tables, int64_t group) {
  const double* tokens = tables.tokens + group * tables.arms;
  const double* cost = tables.cost + group * tables.arms;
  double all_tokens = tokens[0], all_cost = cost[0];
  for (int64_t a = 1; a < tables.arms; ++a) {
    all_tokens += tokens[a];
    all_cost += cost[a];
  }
  return all_cost > 0.0 ? all_tokens / all_cost : 1.0;
}

TAPOUT_HD double throughput_mean(double count, double tokens, double cost, double rate,
                                 double slots) {
  if (!(count > 0.0)) return 0.0;
  const double mean = 0.5 + (tokens - rate * cost) / (2.0 * (slots + 1.0) * count);
  return mean < 0.0 ? 0.0 : mean > 1.0 ? 1.0 : mean;
}

// `rate` is read for throughput alone.
TAPOUT_HD ArmValue arm_value(const BanditTables& tables, Reward reward, double rate, double slots,
                             int64_t group, int64_t arm, int64_t slot) {
  const int64_t cell = bandit_cell(tables, group, arm, slot), row = group * tables.arms + arm;
  const double count = tables.count[cell];
  if (!(count > 0.0)) return {count, 0.0, 0.0, 0.0};
  ArmValue value = {count, tables.reward_sum[cell], tables.reward_sum[cell] / count, 0.0};
  if (reward == Reward::kThroughput) {
    value.mean = throughput_mean(count, tables.tokens[row], tables.cost[row], rate, slots);
    value.reward_sum = value.mean * count;
  }
  const double variance = tables.reward_sq[cell] / count - value.mean * value.mean;
  value.variance = variance > 0.0 ? variance : 0.0;
  return value;
}

// ---- scores -----------------------------------------------------------------------------------

TAPOUT_HD double log_pulls(double pulls) { return log(pulls > 1.0 ? pulls : 1.0); }

// The square root of n apart: 2 ln t / n overflows for a count that was discounted to almost 0.
TAPOUT_HD double ucb1_score(double mean, double pulls, double log_t, double exploration) {
  if (!(pulls > 0.0)) return INFINITY;
  return mean + exploration * sqrt(2.0 * log_t) / sqrt(pulls);
}

TAPOUT_HD double ucb_tuned_score(double mean, double variance, double pulls, double log_t) {
  if (!(pulls > 0.0)) return INFINITY;
  const double share = log_t / pulls, spread = variance + sqrt(2.0 * share);
  return mean + sqrt(share * (spread < 0.25 ? spread : 0.25));
}

// The logarithm is not let below 0, so that no delta makes a score rise with its pulls.
TAPOUT_HD double ucbspec_score(double mean, double pulls, double log_t, double arms, double delta) {
  if (!(pulls > 0.0)) return INFINITY;
  const double doubt = log(arms / delta) + 2.0 * log_t + 0.5 * log(1.0 + pulls);
  return mean + 0.5 * (sqrt(1.0 + pulls) / pulls) * sqrt(1.0 + 2.0 * (doubt > 0.0 ? doubt : 0.0));
}

// Whether a pull of a call counts in the scores of its later rows.
TAPOUT_HD bool counts_pending(Policy policy) {
  return policy == Policy::kUcb1 || policy == Policy::kUcbTuned || policy == Policy::kUcbSpec;
}

TAPOUT_HD double greedy_score(const ArmValue& arm) { return arm.count > 0.0 ? arm.mean : INFINITY; }

TAPOUT_HD int32_t fixed_arm(double param) {
  return param >= 0.0 && param <= 2147483647.0 ? static_cast<int32_t>(param) : -1;
}

// ---- draws ------------------------------------------------------------------------------------

// The noise of one batch row in one call.
struct BanditNoise {
  int64_t seed;
  uint32_t lane;   // batch row
  uint32_t round;  // calls before this one
};

struct UniformPair {
  double first, second;
};

// Counter word 1 of draw 0 of an arm.
TAPOUT_HD int64_t first_draw(int64_t arms, int64_t slot, int64_t arm) {
  return (slot * arms + arm) * kArmDraws;
}

TAPOUT_HD UniformPair bandit_uniforms(const BanditNoise& noise, int64_t word) {
  const uint64_t key = static_cast<uint64_t>(noise.seed);
  const PhiloxBlock block =
      philox4x32_10({{noise.lane, static_cast<uint32_t>(word), noise.round,
                      static_cast<uint32_t>(Domain::kBandit)}},
                    static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  return {uniform_from_words(block.word[0], block.word[1]),
          uniform_from_words(block.word[2], block.word[3])};
}

// cos(2 pi u), u in (0, 1). On a GPU cos takes a stack for arguments that do not occur here.
TAPOUT_HD double cos_of_turn(double u) {
#ifdef __CUDA_ARCH__
  return cospi(2.0 * u);
#else
  return cos(kTwoPi * u);
#endif
}

TAPOUT_HD double bandit_normal(const BanditNoise& noise, int64_t word) {
  const UniformPair u = bandit_uniforms(noise, word);
  return sqrt(-2.0 * log(u.first)) * cos_of_turn(u.second);
}

// Gamma(shape, 1) for shape >= 1; d if every try is rejected.
TAPOUT_HD double gamma_draw(const BanditNoise& noise, int64_t word, double shape) {
  const double d = shape - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);
  for (int64_t k = 0; k < kGammaTries; ++k) {
    const double x = bandit_normal(noise, word + 2 * k), root = 1.0 + c * x;
    const double v = root * root * root;
    if (!(v > 0.0)) continue;
    const double u = bandit_uniforms(noise, word + 2 * k + 1).first;
    if (log(u) < x * x / 2.0 + d - d * v + d * log(v)) return d * v;
  }
  return d;
}

TAPOUT_HD double thompson_gaussian(const ArmValue& arm, const BanditNoise& noise, int64_t word,
                                   double sigma) {
  const double n = arm.count + 1.0;
  return (0.5 + arm.reward_sum) / n + sigma / sqrt(n) * bandit_normal(noise, word);
}

TAPOUT_HD double thompson_beta(const ArmValue& arm, const BanditNoise& noise, int64_t word) {
  const double good = arm.reward_sum, missed = arm.count - arm.reward_sum;
  const double x = gamma_draw(noise, word, 1.0 + (good > 0.0 ? good : 0.0));
  const double y = gamma_draw(noise, word + 2 * kGammaTries, 1.0 + (missed > 0.0 ? missed : 0.0));
  return x / (x + y);
}

// The arm epsilon-greedy explores in this row and slot, or -1 where it takes the best.
TAPOUT_HD int64_t explored_arm(const BanditNoise& noise, int64_t word, double epsilon,
                               int64_t arms) {
  const UniformPair u = bandit_uniforms(noise, word);
  if (!(u.first < epsilon)) return -1;
  const int64_t arm = static_cast<int64_t>(u.second * static_cast<double>(arms));
  return arm < arms ? arm : arms - 1;
}

// ---- credit -----------------------------------------------------------------------------------

TAPOUT_HD bool token_level(Reward kind) {
  return kind == Reward::kDecision || kind == Reward::kTokenAccept;
}

// Sequence level. Throughput reads tokens and cost instead.
TAPOUT_HD double bandit_reward(Reward kind, double accepted, double drafted, double slots,
                               double alpha) {
  if (!(drafted > 0.0) || kind == Reward::kThroughput) return 0.0;
  const double simple = accepted / slots;
  return kind == Reward::kSimple ? simple : alpha * simple + (1.0 - alpha) * accepted / drafted;
}

// `overlap` [K] of one draft, -1 where there is none.
TAPOUT_HD double overlap_reward(const float* overlap, int64_t drafted, int64_t slots) {
  double total = 0.0;
  for (int64_t j = 0; j < drafted; ++j) total += overlap[j] > 0.0f ? overlap[j] : 0.0f;
  return total / static_cast<double>(slots);
}

TAPOUT_HD int64_t drafted_slots(const BanditUpdateParams& params, int64_t b) {
  const int64_t length = params.length[b];
  return length < 0 ? 0 : length < params.slots ? length : params.slots;
}

// Of round b at sequence level, had it ended after `drafted` slots, no more than there are.
TAPOUT_HD double round_reward(const BanditUpdateParams& params, int64_t b, int64_t drafted) {
  if (params.reward == Reward::kOverlap) {
    return overlap_reward(params.overlap + b * params.slots, drafted, params.slots);
  }
  const int64_t accepted = params.num_accepted[b];
  return bandit_reward(params.reward, static_cast<double>(accepted < drafted ? accepted : drafted),
                       static_cast<double>(drafted), static_cast<double>(params.slots),
                       params.params[kAlpha]);
}

TAPOUT_HD double bandit_cost(double cost_ratio, double drafted) {
  return 1.0 + cost_ratio * drafted;
}

// Token level: the reward of slot j's arm, 0 or 1, or -1 where the round taught it nothing. Going
// on was right if the next token was accepted, stopping if this one was rejected. An arm that
// drafts nothing gets 0, else it would look untried for ever.
TAPOUT_HD int32_t slot_credit(Reward kind, StopReason reason, int64_t slot, int64_t accepted,
                              int64_t drafted) {
  if (drafted <= 0) return slot == 0 && reason == StopReason::kPreDraft ? 0 : -1;
  if (slot >= drafted || slot > accepted) return -1;
  if (kind == Reward::kTokenAccept) return slot < accepted;
  if (slot + 1 < drafted) return accepted >= slot + 2;
  return reason == StopReason::kRule ? accepted == slot : -1;
}

// The group of batch row b, or -1 where the row takes no part.
TAPOUT_HD int64_t bandit_group(const int32_t* group, const bool* live, int64_t groups,
                               int64_t row) {
  if (live && !live[row]) return -1;
  const int64_t index = group ? group[row] : 0;
  return index >= 0 && index < groups ? index : -1;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
