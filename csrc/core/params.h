// The types every layer shares: enumerations (the same integers in Python), and one POD Params per
// op. Nothing here is a function, so nothing here depends on the instruction set.
//
//   B, K, V   requests in a batch, draft slots, target vocabulary   A, G   arms, bandit groups
//   R         rows of per-request state: rows[b] names that of batch row b, or R = B
//   D         draft vocabulary; d2t[draft id] is a target id, t2d[target id] a draft id or -1
//   slot      index of a drafted token inside one round, 0..K-1
//   round     a number per request that never repeats; part of every random address
//   live      false for a padding row: no state of it changes
//   p_target, p_draft   the processed distributions (mask, temperature, top-k, top-p, min-p)
//
// Strides are in elements. A null pointer stands for an optional argument that was not given.
#pragma once

#include <stdint.h>

namespace tapout {

enum class DType : int32_t { kF32 = 0, kBf16 = 1, kF16 = 2 };
// From kLossyTypical on a rule is verify's alone and lossy.
enum class Rule : int32_t {
  kToken = 0,
  kBlock = 1,
  kGumbel = 2,
  kGreedy = 3,
  kLossyTypical = 4,
  kLossyEars = 5,
  kLossyConsultant = 6,
  kLossyFly = 7,
  kLossyAdaSd = 8
};
enum class Status : int32_t { kOk = 0, kNan = 1, kEmpty = 2, kBadDraft = 3 };
enum class StopReason : int32_t {
  kNone = 0,
  kRule = 1,
  kMaxLength = 2,
  kPreDraft = 3,
  kNotLive = 4,
  kBadLogits = 5
};
enum class StopKind : int32_t {
  kFixedLength = 0,
  kMaxConfidence = 1,
  kSvip = 2,
  kSvipDifference = 3,
  kLogitMargin = 4,
  kAdaEdl = 5,
  kSurvival = 6,
  kGammaTune = 7,
  kGammaTunePlus = 8,
  kHeuristic = 9,
  kHysteresis = 10,
  kAdaSdEntropy = 11,
  kPredictedLength = 12,
  kAdl = 13
};
// From kExp3 on an arm is drawn by weight, from kHedge on a round tells of every stop rule.
enum class Policy : int32_t {
  kFixed = 0,
  kUcb1 = 1,
  kUcbTuned = 2,
  kThompsonGaussian = 3,
  kThompsonBeta = 4,
  kEpsilonGreedy = 5,
  kUcbSpec = 6,
  kExp3 = 7,
  kHedge = 8,
  kNormalHedge = 9
};
// kDecision and kTokenAccept are credits of the token level, the others rewards of the sequence
// level.
enum class Reward : int32_t {
  kSimple = 0,
  kBlend = 1,
  kThroughput = 2,
  kDecision = 3,
  kTokenAccept = 4,
  kOverlap = 5
};
enum class Domain : uint32_t { kDraft = 0, kAccept = 1, kResidual = 2, kBandit = 3, kGumbel = 4 };

// Columns of a row of statistics, [.., 8] f32.
enum StatsColumn : int32_t {
  kLse = 0,
  kEntropy = 1,
  kTop1Prob = 2,
  kTop2Prob = 3,
  kTokenLogprob = 4,
  kCutoff = 5,
  kTemperature = 6,
  kAcceptEstimate = 7,
  kStatsColumns = 8
};

constexpr int64_t kRuleParams = 4;    // columns of rule_param [A,4] and memory [B,A,4]
constexpr int64_t kLossyMemory = 4;   // columns of lossy_memory [R,4]
constexpr int64_t kBanditParams = 8;  // entries of a bandit's params:
constexpr int64_t kAlpha = 0;         // weight of n_acc/K in the blended reward
constexpr int64_t kPolicyParam = 1;   // exploration, sigma, epsilon, delta, or the fixed arm
constexpr int64_t kDiscount = 2;      // of the tables at every credited round; 1: none

struct Logits {  // [B, rows, V], or [rows, V] with batch_stride 0; the vocabulary is contiguous
  const void* data;
  DType dtype;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t vocab;
};

// Allowed ids, one bit each (id & 31 of word id >> 5), rows like those of the logits they mask.
struct TokenMask {
  const int32_t* bits;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t words;  // of one row
};

struct Sampling {  // [R] each
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
};

// Where the state of batch row b is. Null `index`: row b.
struct StateRows {
  const int32_t* index;  // [B]
  int64_t count;         // R
};

struct Rules {
  const int32_t* kind;  // [A]
  const float* param;   // [A, 4]
  const int32_t* arm;   // [R] or [R, K]
  const float* memory;  // [R, A, 4]
  int64_t arms;
  int64_t arm_slots;  // K at token level, else 1
};

struct RowStatsParams {
  int64_t batch;
  Logits logits;  // [B, V]
  Sampling sampling;
  TokenMask mask;
  const int64_t* token;  // [B]
  float* stats;          // [B, 8]
};

struct SampleParams {
  int64_t batch;
  StateRows rows;
  Logits logits;  // [B, V]
  Sampling sampling;
  TokenMask mask;
  const int64_t* seed;  // [R]
  const bool* live;     // [B]
  Rule rule;
  int64_t* rng_round;  // [R]
  int64_t* position;   // [R]
  int64_t* tokens;     // [B]
};

// The device side of a Proposal, as the ops that write it see it.
struct ProposalView {
  int64_t batch;
  int64_t slots;
  int64_t* tokens;       // [B, K]
  int32_t* length;       // [B]
  bool* active;          // [B]
  int32_t* num_active;   // [1]
  float* stats;          // [B, K, 8]
  int32_t* stop_reason;  // [B]
};

struct ProposalResetParams {
  ProposalView proposal;
  StateRows rows;
  const int32_t* max_length;  // [B]
  const float* prediction;    // [B]
  const bool* live;           // [B]
  Rules rules;
  float* memory;            // that of rules
  int64_t* rng_round;       // [R]
  int32_t* out_max_length;  // [B]
  bool* out_live;           // [B]
  int64_t* round;           // [B]
};

struct ProposalLoadParams {
  ProposalView proposal;
  StateRows rows;
  const int64_t* source;  // [B, columns]
  int64_t columns;
  const int32_t* source_length;  // [B]
  Logits logits;                 // [B, columns, D]; masked entries are set to -inf
  Sampling sampling;
  TokenMask mask;      // [B, columns, words]
  const int32_t* d2t;  // [D]
  const int32_t* t2d;  // [target_ids]
  int64_t target_ids;
  Rules rules;
  const int32_t* max_length;  // [B]
};

struct DraftStepParams {
  ProposalView proposal;
  StateRows rows;
  Logits logits;  // [B, D]
  Sampling sampling;
  TokenMask mask;                // [B, words]
  const int32_t* d2t;            // [D]
  const float* accept_estimate;  // [B]
  const int64_t* seed;           // [R]
  const int64_t* position;       // [R]
  const int64_t* round;          // [B]
  const int32_t* max_length;     // [B]
  Rules rules;
  Rule rule;
  const int32_t* logits_row;  // [B], rows of kept_logits
  void* kept_logits;          // [kept_rows, K, D], the dtype of logits
  int64_t kept_rows;
  int64_t kept_batch_stride;
  int64_t kept_row_stride;
  int64_t* next_token;  // [B]
};

struct VerifyParams {
  int64_t batch;
  int64_t slots;
  StateRows rows;
  Logits target;             // [B, K+1, V], or [target_rows, V] with row_start
  const int32_t* row_start;  // [B+1]
  int64_t target_rows;
  Sampling sampling;
  TokenMask mask;               // rows like the target's
  const int64_t* seed;          // [R]
  const int64_t* draft_tokens;  // [B, K]
  const int32_t* length;        // [B]
  const bool* live;             // [B]
  const int64_t* round;         // [B]
  Logits draft;                 // [draft_rows, K, D]; data null: one-hot drafts
  const int32_t* logits_row;    // [B], rows of draft
  int64_t draft_rows;
  const int32_t* t2d;  // [target_ids]
  int64_t target_ids;
  const float* stats;  // [B, K, 8]
  Rule rule;
  bool raw_logprobs;
  int64_t* position;      // [R]
  int64_t* tokens;        // [B, K+1]
  int32_t* num_accepted;  // [B]
  int32_t* num_emitted;   // [B]
  int64_t* last_token;    // [B]
  int32_t* status;        // [B]
  float* accept_prob;     // [B, K]
  float* overlap;         // [B, K]
  float* logprobs;        // [B, K+1]
  double* lossy_memory;   // [R, 4], of rule lossy_adasd
};

// One table per group, and per slot at token level (then table_slots is K, else 1).
struct BanditTables {
  int64_t groups;
  int64_t arms;
  int64_t table_slots;
  const double* count;  // [G, A] or [G, A, K], and the next two
  const double* reward_sum;
  const double* reward_sq;  // or estimated losses (weights.h)
  const double* tokens;     // [G, A]
  const double* cost;       // [G, A]
  const double* params;     // [8]
};

// One arm while a call of ucb1, ucb_tuned or ucbspec runs: `pulls` counts those of the call too.
struct ScoredArm {
  double score;
  double pulls;
  double log_t;
  double mean;
  double variance;
};

struct BanditSelectParams {
  int64_t batch;
  StateRows rows;
  BanditTables tables;
  const int64_t* seed;   // [1]
  const int32_t* group;  // [B]
  const bool* live;      // [B]
  Policy policy;
  Reward reward;
  int64_t slots;        // K of the proposals
  int64_t* calls;       // [1]
  int32_t* arm;         // [R] or [R, K]
  double* arm_prob;     // [R, A] or [R, A, K], of policies that draw by weight
  int32_t* group_rows;  // [G] zeros, and
  ScoredArm* scored;    // [G, table_slots, A]: scratch of policies that count pending pulls
};

// What a round says of one stop rule.
struct RuleLoss {
  double estimate;
  int32_t stop;
};

struct BanditUpdateParams {
  int64_t batch;
  int64_t slots;
  int64_t groups;
  int64_t arms;
  int64_t table_slots;  // K at token level, else 1
  StateRows rows;
  const int32_t* arm;           // [R] or [R, K]
  const int32_t* length;        // [B]
  const float* stats;           // [B, K, 8]
  const bool* live;             // [B]
  const int32_t* stop_reason;   // [B]
  const int32_t* num_accepted;  // [B]
  const float* overlap;         // [B, K], for the reward of that name
  const int32_t* status;        // [B]
  const int32_t* group;         // [B]
  const double* params;         // [8]
  const float* cost_ratio;      // [1]
  Policy policy;
  Reward reward;
  const double* arm_prob;    // [R, A] or [R, A, K], of policies that draw by weight
  const int32_t* rule_kind;  // [A]
  const float* rule_param;   // [A, 4]
  double* count;             // [G, A] or [G, A, K], and the next two
  double* reward_sum;
  double* reward_sq;
  double* tokens;    // [G, A]
  double* cost;      // [G, A]
  float* memory;     // [R, A, 4]
  RuleLoss* losses;  // scratch of hedge and normalhedge: [A], on a GPU [B, A]
};

}  // namespace tapout
