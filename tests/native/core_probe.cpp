// csrc/core and the vector exponential behind C functions, for tests/test_core.py.
#include "../../csrc/core/accept.h"
#include "../../csrc/core/bandit.h"
#include "../../csrc/core/rng.h"
#include "../../csrc/core/rows.h"
#include "../../csrc/core/sampling.h"
#include "../../csrc/core/stats.h"
#include "../../csrc/core/stop.h"
#include "../../csrc/core/stop_memory.h"
#include "../../csrc/cpu/vec16.h"

using namespace tapout;

extern "C" {

void probe_philox(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  const PhiloxBlock block =
      philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  memcpy(out, block.word, sizeof block.word);
}

double probe_uniform(uint32_t word0, uint32_t word1) { return uniform_from_words(word0, word1); }

double probe_uniform_at(int64_t seed, uint32_t lane, int64_t slot, int64_t round, int domain) {
  return uniform_at(seed, lane, slot, round, static_cast<Domain>(domain));
}

// Moments as (max, sum, dev, finite).
void probe_merge(const double* left, const double* right, double inv_temperature, double* out) {
  const Moments merged =
      merge(Moments{left[0], left[1], left[2], left[3] != 0.0},
            Moments{right[0], right[1], right[2], right[3] != 0.0}, inv_temperature);
  const double values[] = {merged.max, merged.sum, merged.dev, merged.finite ? 1.0 : 0.0};
  memcpy(out, values, sizeof values);
}

void probe_empty(double* out) {
  const Moments empty = empty_moments();
  const double values[] = {empty.max, empty.sum, empty.dev, empty.finite ? 1.0 : 0.0};
  memcpy(out, values, sizeof values);
}

double probe_entropy(const double* row) { return entropy(Moments{row[0], row[1], row[2], true}); }

int probe_row_status(const double* row) {
  return static_cast<int>(row_status(Moments{row[0], row[1], row[2], row[3] != 0.0}));
}

void probe_top2(const float* logits, int64_t n, float* out) {
  Top2 top = {-INFINITY, -INFINITY};
  for (int64_t i = 0; i < n; ++i) top = merge(top, Top2{logits[i], -INFINITY});
  out[0] = top.first;
  out[1] = top.second;
}

void probe_exp2(const float* a, float rate, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    store16(out + i, exp2_16(load16(a + i), set16(rate)));
  }
}

float probe_reduce_add(const float* lanes) { return reduce_add16(load16(lanes)); }

void probe_convert(const uint16_t* bits, int bf16, float* out) {
  if (bf16) return store16(out, load16(reinterpret_cast<const Bf16*>(bits)));
  store16(out, load16(reinterpret_cast<const F16*>(bits)));
}

uint32_t probe_order_key(float value) { return order_key(value); }
float probe_key_value(uint32_t key) { return key_value(key); }

// The largest key in [low, high] that is <= limit, by bisection; counts the probes.
uint32_t probe_search(uint32_t low, uint32_t high, uint32_t limit, int* probes) {
  KeySearch search = {low, high};
  for (*probes = 0; search.low < search.high; ++*probes) {
    const uint32_t probe = search_probe(search);
    search = search_next(search, probe, probe <= limit);
  }
  return search.low;
}

int64_t probe_inverse_cdf(const double* weight, int64_t n, double target, double* before) {
  CdfScan scan = cdf_begin(target);
  for (int64_t i = 0; i < n && !scan.found; ++i) cdf_step(scan, weight[i], i);
  *before = scan.before;
  return scan.index;
}

// (valid, argmax, temperature, top_k, top_p, min_p, filtered)
void probe_row_sampling(float temperature, int32_t top_k, float top_p, float min_p, int rule,
                        int64_t vocab, double* out) {
  const Sampling sampling = {&temperature, &top_k, &top_p, &min_p};
  const RowSampling row = row_sampling(sampling, 0, static_cast<Rule>(rule), vocab);
  const double values[] = {double(row.valid),     double(row.argmax), row.temperature,
                           double(row.top_k),     row.top_p,          row.min_p,
                           double(row.filtered())};
  memcpy(out, values, sizeof values);
}

int probe_mask_allows(const int32_t* mask, int64_t words, int64_t id) {
  return mask_allows(mask, words, id);
}
int probe_reaches(double logit, double max, double inv_temperature, double min_p) {
  return reaches(logit, max, inv_temperature, min_p);
}
int64_t probe_state_row(const int32_t* index, int64_t count, int64_t b) {
  return state_row(StateRows{index, count}, b);
}

// The bin of `logit` in [low, high], its width as a shift, and the logit such a bin stands for.
float probe_bin(float low, float high, int dtype, float logit, int64_t* bin, int* shift) {
  const int precision = key_precision(static_cast<DType>(dtype));
  const KeyRange range = key_range(low, high, precision);
  *shift = bin_shift(range, precision);
  *bin = (order_key(logit) - range.low) >> *shift;
  const KeyRange coarse = bin_range(range, *shift, *bin);
  *shift = bin_shift(coarse, precision);
  return bin_value(bin_range(coarse, *shift, (order_key(logit) - coarse.low) >> *shift));
}

uint32_t probe_gumbel_word(int64_t seed, int64_t position, int64_t id) {
  return gumbel_word(seed, position, id);
}
double probe_gumbel_noise(uint32_t word) { return gumbel_noise(word); }
int64_t probe_offset_position(int64_t position, int64_t slot) {
  return offset_position(position, slot);
}

// One row, two arms: arm 0 is fixed_length with n = 3, arm 1 has the given kind.
int probe_stops(int kind, const float* param, const float* memory, int arm, int64_t slot,
                const float* stats) {
  const int32_t kinds[2] = {0, kind}, arms[1] = {arm};
  float params[2 * kRuleParams] = {3.0f}, memories[2 * kRuleParams] = {};
  memcpy(params + kRuleParams, param, kRuleParams * sizeof(float));
  memcpy(memories + kRuleParams, memory, kRuleParams * sizeof(float));
  const Rules rules = {kinds, params, arms, memories, 2, 1};
  return stops_after(rules, 0, slot, stats + slot * kStatsColumns);
}

// One row, one arm.
int probe_stops_before(int kind, const float* param, const float* memory, int arm) {
  const int32_t kinds[1] = {kind}, arms[1] = {arm};
  return stops_before_drafting(Rules{kinds, param, arms, memory, 1, 1}, 0);
}

float probe_predicted_length(float prediction, int64_t slots) {
  return predicted_length(prediction, slots);
}

// Two arms, fixed_length with n = 1 and n = 3; which one decides after each slot.
int probe_slot_stops(const int32_t* arm, int64_t arm_slots, int64_t row, int64_t slot) {
  const int32_t kinds[2] = {0, 0};
  const float params[2 * kRuleParams] = {1.0f, 0, 0, 0, 3.0f};
  const float stats[8 * kStatsColumns] = {}, memory[4 * kRuleParams] = {};
  const Rules rules = {kinds, params, arm, memory, 2, arm_slots};
  return stops_after(rules, row, slot, stats + slot * kStatsColumns);
}

float probe_stored_estimate(float estimate) { return stored_estimate(estimate); }

void probe_update_memory(int kind, const float* param, float* memory, double accepted,
                         double drafted, double slots, int refused, const float* stats) {
  const FinishedRound round = {accepted, drafted, slots, refused != 0, stats};
  update_memory(static_cast<StopKind>(kind), param, memory, round);
}

int probe_accepts(double uniform, double p_target, double p_draft) {
  return accepts(uniform, p_target, p_draft);
}
double probe_accept_probability(double p_target, double p_draft) {
  return accept_probability(p_target, p_draft);
}
double probe_block_weight(double weight, double p_target, double p_draft) {
  return block_weight(weight, p_target, p_draft);
}
double probe_one_hot_residual(double weight, double p_target) {
  return one_hot_residual(weight, p_target);
}
int probe_block_accepts(double uniform, double residual, double weight) {
  return block_accepts(uniform, residual, weight);
}
int probe_block_may_accept(double uniform, double weight) {
  return block_may_accept(uniform, weight);
}
int probe_block_accepts_all(double uniform, double weight) {
  return block_accepts_all(uniform, weight);
}
double probe_residual(double p_target, double p_draft) {
  return residual_weight(p_target, p_draft);
}
double probe_draft_probability(float token_logprob) {
  const float stats[kStatsColumns] = {0, 0, 0, 0, token_logprob, 0, 0, 0};
  return draft_probability(stats);
}

double probe_ucb1(double mean, double pulls, double t, double exploration) {
  return ucb1_score(mean, pulls, log_pulls(t), exploration);
}
double probe_ucb_tuned(double mean, double variance, double pulls, double t) {
  return ucb_tuned_score(mean, variance, pulls, log_pulls(t));
}
double probe_ucbspec(double mean, double pulls, double t, double arms, double delta) {
  return ucbspec_score(mean, pulls, log_pulls(t), arms, delta);
}
double probe_throughput_mean(double count, double tokens, double cost, double rate, double slots) {
  return throughput_mean(count, tokens, cost, rate, slots);
}
double probe_token_rate(const double* tokens, const double* cost, int64_t arms, int64_t group) {
  BanditTables tables = {};
  tables.arms = arms;
  tables.tokens = tokens;
  tables.cost = cost;
  return token_rate(tables, group);
}
double probe_thompson(int beta, double count, double reward_sum, double sigma, int64_t seed,
                      uint32_t lane, uint32_t round, int64_t word) {
  const ArmValue arm = {count, reward_sum, 0.0, 0.0};
  const BanditNoise noise = {seed, lane, round};
  return beta ? thompson_beta(arm, noise, word) : thompson_gaussian(arm, noise, word, sigma);
}
double probe_reward(int kind, double accepted, double drafted, double slots, double alpha) {
  return bandit_reward(static_cast<Reward>(kind), accepted, drafted, slots, alpha);
}
int probe_fixed_arm(double param) { return fixed_arm(param); }

}  // extern "C"
