// The types every layer shares: enumerations (the same integers in Python), and one POD Params per
// op. Nothing here is a function, so nothing here depends on the instruction set.
//
//   B, K, V   requests in a batch, draft slots, vocabulary      A, G   arms, bandit groups
//   slot      index of a drafted token inside one round, 0..K-1
//   round     a number per request that never repeats; part of every random address
//   live      false for a padding row: no state of it changes
//   p_target, p_draft   the processed distributions (temperature, then top-k, then top-p)
//
// Strides are in elements. A null pointer stands for an optional argument that was not given.
#pragma once

#include <stdint.h>

namespace tapout {

enum class DType : int32_t { kF32 = 0, kBf16 = 1, kF16 = 2 };
enum class Rule : int32_t { kToken = 0, kBlock = 1, kGumbel = 2, kGreedy = 3 };
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
  kAdaEdl = 5
};
enum class Policy : int32_t { kFixed = 0, kUcb1 = 1 };
enum class Reward : int32_t { kSimple = 0, kBlend = 1 };
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
  kStatsColumns = 8
};

constexpr int64_t kRuleParams = 4;    // columns of rule_param [A,4] and memory [B,A,4]
constexpr int64_t kBanditParams = 8;  // entries of a bandit's params:
constexpr int64_t kAlpha = 0;         // weight of n_acc/K in the blended reward
constexpr int64_t kPolicyParam = 1;   // ucb1: exploration; fixed: the arm

struct Logits {  // [B, rows, V]; the vocabulary is contiguous
  const void* data;
  DType dtype;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t vocab;
};

struct Sampling {  // [B] each
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
};

struct Rules {
  const int32_t* kind;  // [A]
  const float* param;   // [A, 4]
  const int32_t* arm;   // [B]
  const float* memory;  // [B, A, 4]
  int64_t arms;
};

struct RowStatsParams {
  int64_t batch;
  Logits logits;  // [B, V]
  Sampling sampling;
  const int64_t* token;  // [B]
  float* stats;          // [B, 8]
};

struct SampleParams {
  int64_t batch;
  Logits logits;  // [B, V]
  Sampling sampling;
  const int64_t* seed;  // [B]
  const bool* live;     // [B]
  Rule rule;
  int64_t* rng_round;  // [B]
  int64_t* position;   // [B]
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
  const int32_t* max_length;  // [B]
  const bool* live;           // [B]
  Rules rules;
  int64_t* rng_round;       // [B]
  int32_t* out_max_length;  // [B]
  bool* out_live;           // [B]
  int64_t* round;           // [B]
};

struct ProposalLoadParams {
  ProposalView proposal;
  const int64_t* source;  // [B, columns]
  int64_t columns;
  const int32_t* source_length;  // [B]
  Logits logits;                 // [B, K, V]
  Sampling sampling;
  Rules rules;
  const int32_t* max_length;  // [B]
};

struct DraftStepParams {
  ProposalView proposal;
  Logits logits;  // [B, V]
  Sampling sampling;
  const int64_t* seed;        // [B]
  const int64_t* round;       // [B]
  const int32_t* max_length;  // [B]
  Rules rules;
  Rule rule;
  void* kept_logits;  // [B, K, V], the dtype of logits
  int64_t kept_batch_stride;
  int64_t kept_row_stride;
  int64_t* next_token;  // [B]
};

struct VerifyParams {
  int64_t batch;
  int64_t slots;
  Logits target;  // [B, K+1, V]
  Sampling sampling;
  const int64_t* seed;          // [B]
  const int64_t* draft_tokens;  // [B, K]
  const int32_t* length;        // [B]
  const bool* live;             // [B]
  const int64_t* round;         // [B]
  Logits draft;                 // [B, K, V]; data null: one-hot drafts
  const float* stats;           // [B, K, 8]
  Rule rule;
  int64_t* position;      // [B]
  int64_t* tokens;        // [B, K+1]
  int32_t* num_accepted;  // [B]
  int32_t* num_emitted;   // [B]
  int64_t* last_token;    // [B]
  int32_t* status;        // [B]
  float* accept_prob;     // [B, K]
};

struct BanditSelectParams {
  int64_t batch;
  int64_t groups;
  int64_t arms;
  const double* count;       // [G, A]
  const double* reward_sum;  // [G, A]
  const double* params;      // [8]
  const int32_t* group;      // [B]
  const bool* live;          // [B]
  Policy policy;
  int64_t* calls;    // [1]
  int32_t* arm;      // [B]
  int32_t* pending;  // [G, A + 1] zeros: this call's pulls per arm, then its rows per group
};

struct BanditUpdateParams {
  int64_t batch;
  int64_t slots;
  int64_t groups;
  int64_t arms;
  const int32_t* arm;           // [B]
  const int32_t* length;        // [B]
  const bool* live;             // [B]
  const int32_t* num_accepted;  // [B]
  const int32_t* status;        // [B]
  const int32_t* group;         // [B]
  const double* params;         // [8]
  const float* cost_ratio;      // [1]
  Reward reward;
  const int32_t* rule_kind;  // [A]
  double* count;             // [G, A] each
  double* reward_sum;
  double* reward_sq;
  double* tokens;
  double* cost;
  float* memory;  // [B, A, 4]
};

}  // namespace tapout
