// Every operator's kernels on small inputs, in a few orders: to be compiled with ThreadSanitizer,
// which sees each CUDA thread as a thread of its own. A program of its own because the sanitizer
// cannot be loaded into Python.  Arguments: the operator, and the number of its rule or policy.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../../csrc/cuda/ops.h"

using namespace tapout;

namespace {

constexpr int64_t kBatch = 3;
constexpr int64_t kSlots = 2;
constexpr int64_t kVocab = 2500;  // three chunks
constexpr int64_t kArms = 2;
constexpr int64_t kGroups = 2;
constexpr int64_t kNodes = 40;  // of two words

uint64_t random_state = 1;

double uniform() {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(random_state >> 40) / (1 << 24);
}

// An array that lives until the program ends, of values by index.
template <class T>
T* array(int64_t size, const std::function<double(int64_t)>& value) {
  static std::vector<std::unique_ptr<T[]>> all;
  all.emplace_back(new T[static_cast<size_t>(size)]);
  for (int64_t i = 0; i < size; ++i) all.back()[static_cast<size_t>(i)] = static_cast<T>(value(i));
  return all.back().get();
}

template <class T>
T* constant(int64_t size, double value) {
  return array<T>(size, [value](int64_t) { return value; });
}

template <class T>
T* below(int64_t size, int64_t limit) {
  return array<T>(size, [limit](int64_t) { return uniform() * static_cast<double>(limit); });
}

Logits logits(int64_t rows) {  // [batch, rows, V] of steps, so that cutoffs have ties
  float* data = array<float>(kBatch * rows * kVocab,
                             [](int64_t) { return static_cast<int>(64 * uniform()) / 8.0; });
  return {data, DType::kF32, rows * kVocab, kVocab, kVocab};
}

Sampling sampling() {  // row 0 keeps everything, row 1 and 2 a part
  return {constant<float>(kBatch, 0.9), array<int32_t>(kBatch, [](int64_t b) { return 40 * b; }),
          array<float>(kBatch, [](int64_t b) { return b == 1 ? 0.7 : 1.0; }),
          array<float>(kBatch, [](int64_t b) { return b == 2 ? 0.01 : 0.0; })};
}

StateRows rows() { return {nullptr, kBatch}; }

Rules rules() {
  return {constant<int32_t>(kArms, static_cast<double>(StopKind::kAdaEdl)),
          constant<float>(kArms * kRuleParams, 0.1),
          below<int32_t>(kBatch, kArms),
          constant<float>(kBatch * kArms * kRuleParams, 0.5),
          kArms,
          1};
}

ProposalView proposal() {
  return {kBatch,
          kSlots,
          constant<int64_t>(kBatch * kSlots, -1),
          constant<int32_t>(kBatch, 0),
          constant<bool>(kBatch, 1),
          constant<int32_t>(1, kBatch),
          constant<float>(kBatch * kSlots * kStatsColumns, 0),
          constant<int32_t>(kBatch, 0)};
}

// Orders of blocks and threads, all blocks in flight: every block has shared memory of its own, so
// that what the check sees there are the threads of one block.
template <class Params>
void check(const Params& params, cuda::WorkspaceSize (*size)(const Params&),
           cudaError_t (*launch)(const Params&, cuda::Workspace, cuda::Queue)) {
  const cuda::WorkspaceSize wanted = size(params);
  const cuda::Workspace scratch = {constant<char>(wanted.bytes + 1, -1),
                                   constant<uint32_t>(wanted.tickets + 1, 0)};
  for (uint64_t seed = 0; seed < 3; ++seed) {
    emulator_configure(seed, 64);
    if (launch(params, scratch, {nullptr, 2}) == cudaSuccess) continue;
    fprintf(stderr, "%s\n", emulator_error());
    exit(1);
  }
}

void row_stats(int) {
  RowStatsParams params = {};
  params.batch = kBatch;
  params.logits = logits(1);
  params.sampling = sampling();
  params.token = below<int64_t>(kBatch, kVocab);
  params.stats = constant<float>(kBatch * kStatsColumns, 0);
  check(params, cuda::row_stats_workspace, cuda::row_stats);
}

void sample(int rule) {
  SampleParams params = {};
  params.batch = kBatch;
  params.rows = rows();
  params.logits = logits(1);
  params.sampling = sampling();
  params.seed = below<int64_t>(kBatch, 99);
  params.rule = static_cast<Rule>(rule);
  params.rng_round = constant<int64_t>(kBatch, 0);
  params.position = constant<int64_t>(kBatch, 0);
  params.tokens = constant<int64_t>(kBatch, 0);
  check(params, cuda::sample_workspace, cuda::sample);
}

void proposal_reset(int) {
  ProposalResetParams params = {};
  params.proposal = proposal();
  params.rows = rows();
  params.rules = rules();
  params.rules.kind = constant<int32_t>(kArms, static_cast<double>(StopKind::kPredictedLength));
  params.prediction = constant<float>(kBatch, 1);
  params.memory = constant<float>(kBatch * kArms * kRuleParams, 0);
  params.rules.memory = params.memory;
  params.rng_round = constant<int64_t>(kBatch, 0);
  params.out_max_length = constant<int32_t>(kBatch, 0);
  params.out_live = constant<bool>(kBatch, 0);
  params.round = constant<int64_t>(kBatch, 0);
  check(params, cuda::proposal_reset_workspace, cuda::proposal_reset);
}

void proposal_load(int) {
  ProposalLoadParams params = {};
  params.proposal = proposal();
  params.rows = rows();
  params.source = below<int64_t>(kBatch * kSlots, kVocab);
  params.columns = kSlots;
  params.logits = logits(kSlots);
  params.sampling = sampling();
  params.mask = {constant<int32_t>(kBatch * kSlots * (kVocab / 32 + 1), -2),
                 kSlots * (kVocab / 32 + 1), kVocab / 32 + 1, kVocab / 32 + 1};
  params.rules = rules();
  params.max_length = constant<int32_t>(kBatch, kSlots);
  check(params, cuda::proposal_load_workspace, cuda::proposal_load);
}

void draft_step(int rule) {
  DraftStepParams params = {};
  params.proposal = proposal();
  params.rows = rows();
  params.logits = logits(1);
  params.sampling = sampling();
  params.seed = below<int64_t>(kBatch, 99);
  params.position = constant<int64_t>(kBatch, 0);
  params.round = constant<int64_t>(kBatch, 0);
  params.max_length = constant<int32_t>(kBatch, kSlots);
  params.rules = rules();
  params.rule = static_cast<Rule>(rule);
  params.kept_logits = constant<float>(kBatch * kSlots * kVocab, 0);
  params.kept_rows = kBatch;
  params.kept_batch_stride = kSlots * kVocab;
  params.kept_row_stride = kVocab;
  params.next_token = constant<int64_t>(kBatch, 0);
  check(params, cuda::draft_step_workspace, cuda::draft_step);
}

void verify(int rule) {
  VerifyParams params = {};
  params.batch = kBatch;
  params.slots = kSlots;
  params.rows = rows();
  params.target = logits(kSlots + 1);
  params.sampling = sampling();
  params.seed = below<int64_t>(kBatch, 99);
  params.draft_tokens = below<int64_t>(kBatch * kSlots, kVocab);
  params.length = constant<int32_t>(kBatch, kSlots);
  params.live = constant<bool>(kBatch, 1);
  params.round = constant<int64_t>(kBatch, 0);
  params.draft = logits(kSlots);
  params.draft_rows = kBatch;
  params.stats = array<float>(kBatch * kSlots * kStatsColumns, [](int64_t i) {
    const int64_t column = i % kStatsColumns;
    return column == kLse           ? 14.0
           : column == kCutoff      ? -INFINITY
           : column == kTemperature ? 1.0
                                    : -7.0;
  });
  params.rule = static_cast<Rule>(rule);
  params.raw_logprobs = true;
  params.position = constant<int64_t>(kBatch, 0);
  params.tokens = constant<int64_t>(kBatch * (kSlots + 1), 0);
  params.num_accepted = constant<int32_t>(kBatch, 0);
  params.num_emitted = constant<int32_t>(kBatch, 0);
  params.last_token = constant<int64_t>(kBatch, 0);
  params.status = constant<int32_t>(kBatch, 0);
  params.accept_prob = constant<float>(kBatch * kSlots, 0);
  params.logprobs = constant<float>(kBatch * (kSlots + 1), 0);
  check(params, cuda::verify_workspace, cuda::verify);
  params.overlap = constant<float>(kBatch * kSlots, 0);
  check(params, cuda::verify_workspace, cuda::verify);
}

BanditUpdateParams update(int policy = 0) {
  BanditUpdateParams params = {};
  params.batch = kBatch;
  params.slots = kSlots;
  params.groups = kGroups;
  params.arms = kArms;
  params.table_slots = 1;
  params.rows = rows();
  params.arm = below<int32_t>(kBatch, kArms);
  params.length = constant<int32_t>(kBatch, kSlots);
  params.stats = constant<float>(kBatch * kSlots * kStatsColumns, 0.5);
  params.live = constant<bool>(kBatch, 1);
  params.stop_reason = constant<int32_t>(kBatch, 1);
  params.num_accepted = constant<int32_t>(kBatch, 1);
  params.status = constant<int32_t>(kBatch, 0);
  params.group = below<int32_t>(kBatch, kGroups);
  params.params = constant<double>(kBanditParams, 0.5);
  params.cost_ratio = constant<float>(1, 0.1);
  params.policy = static_cast<Policy>(policy);
  params.arm_prob = constant<double>(kBatch * kArms, 1.0 / kArms);
  params.rule_kind = array<int32_t>(kArms, [](int64_t arm) {
    return static_cast<double>(arm == 0 ? StopKind::kHysteresis : StopKind::kAdaSdEntropy);
  });
  params.rule_param = constant<float>(kArms * kRuleParams, 0.5);
  params.count = constant<double>(kGroups * kArms, 3);
  params.reward_sum = constant<double>(kGroups * kArms, 1);
  params.reward_sq = constant<double>(kGroups * kArms, 1);
  params.tokens = constant<double>(kGroups * kArms, 2);
  params.cost = constant<double>(kGroups * kArms, 1);
  params.memory = constant<float>(kBatch * kArms * kRuleParams, 0.5);
  return params;
}

BanditSelectParams select(const BanditUpdateParams& round, int policy) {
  BanditSelectParams params = {};
  params.batch = kBatch;
  params.rows = rows();
  params.tables = {kGroups,         kArms,        1,          round.count, round.reward_sum,
                   round.reward_sq, round.tokens, round.cost, round.params};
  params.seed = constant<int64_t>(1, 7);
  params.group = round.group;
  params.policy = static_cast<Policy>(policy);
  params.slots = kSlots;
  params.calls = constant<int64_t>(1, 0);
  params.arm = constant<int32_t>(kBatch, 0);
  params.arm_prob = const_cast<double*>(round.arm_prob);
  return params;
}

void bandit_select(int policy) {
  check(select(update(), policy), cuda::bandit_select_workspace, cuda::bandit_select);
}

void bandit_update(int) { check(update(), cuda::bandit_update_workspace, cuda::bandit_update); }

void bandit_step(int policy) {
  const BanditUpdateParams round = update(policy);
  check(cuda::BanditStepParams{round, select(round, policy)}, cuda::bandit_step_workspace,
        cuda::bandit_step);
}

int32_t* parents() {
  return array<int32_t>(kBatch * kNodes,
                        [](int64_t i) { return floor(uniform() * (i % kNodes + 1)) - 1; });
}

int32_t* ancestors() { return constant<int32_t>(kBatch * kNodes * (kNodes / 32 + 1), 5); }

void tree_layout(int) {
  TreeLayoutParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes;
  params.parents = parents();
  params.size = constant<int32_t>(kBatch, 0);
  params.valid = constant<bool>(kBatch, 0);
  params.depth = constant<int32_t>(kBatch * kNodes, 0);
  params.position_ids = constant<int64_t>(kBatch * (kNodes + 1), 0);
  params.first_child = constant<int32_t>(kBatch * (kNodes + 1), 0);
  params.next_sibling = constant<int32_t>(kBatch * kNodes, 0);
  params.ancestors = ancestors();
  check(params, cuda::tree_layout_workspace, cuda::tree_layout);
}

void tree_mask(int) {
  TreeMaskParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes;
  params.ancestors = ancestors();
  params.mask = {constant<uint8_t>(kBatch * kNodes * kNodes, 0), MaskType::kBool, kNodes,
                 kNodes * kNodes, kNodes};
  check(params, cuda::tree_mask_workspace, cuda::tree_mask);
}

void tree_mask_flat(int) {  // rows that share bytes, and lie where the call before wrote
  TreeMaskFlatParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes / 2;  // more blocks would not be in flight at once
  params.rows = kNodes / 2;
  params.ancestors = ancestors();
  params.past = array<int32_t>(kBatch, [](int64_t b) { return 3 * b; });
  params.packed = true;
  params.size = kBatch * kNodes * (kNodes + 20) / 8;
  params.mask = constant<uint8_t>(params.size, 255);
  params.written = array<int32_t>(kBatch, [](int64_t b) { return 7 - 2 * b; });
  params.start = constant<int32_t>(kBatch + 1, 0);
  check(params, cuda::tree_mask_flat_workspace, cuda::tree_mask_flat);
}

void tree_rerank(int) {
  TreeRerankParams params = {};
  params.batch = kBatch;
  params.candidates = kNodes;
  params.nodes = kNodes / 2;
  params.tokens = below<int64_t>(kBatch * kNodes, 99);
  params.parents = parents();
  params.score = array<float>(kBatch * kNodes, [](int64_t i) { return -(i % kNodes / 3); });
  params.out_tokens = constant<int64_t>(kBatch * kNodes, 0);
  params.out_parents = constant<int32_t>(kBatch * kNodes, 0);
  params.node = constant<int32_t>(kBatch * kNodes, 0);
  check(params, cuda::tree_rerank_workspace, cuda::tree_rerank);
}

// Two rows of three children each, the root's first.
void tree_expand(int drawn) {
  constexpr int64_t kWide = 2, kEach = 3, kAll = 1 + kWide * kEach;
  TreeExpandParams params = {};
  params.batch = kBatch;
  params.nodes = kAll;
  params.beam_rows = kWide;
  params.children = kEach;
  params.rows = rows();
  params.logits = logits(kWide);
  params.sampling = sampling();
  params.seed = below<int64_t>(kBatch, 99);
  params.round = constant<int64_t>(kBatch, 0);
  params.beam = array<int32_t>(kBatch * kWide, [](int64_t i) { return i % kWide - 1; });
  params.child_start = array<int32_t>(kWide + 1, [](int64_t i) { return 1 + i * kEach; });
  params.threshold = constant<float>(kBatch, -1);
  params.drawn = drawn;
  params.active = constant<bool>(kBatch, 1);
  params.depth = constant<int32_t>(kBatch, 0);
  params.tokens = constant<int64_t>(kBatch * kAll, 1);
  params.parents = constant<int32_t>(kBatch * kAll, 0);
  params.score = constant<float>(kBatch * kAll, 0);
  params.kept_logits = constant<float>(kBatch * (kAll + 1) * kVocab, 0);
  params.stats = constant<float>(kBatch * (kAll + 1) * kStatsColumns, 0);
  params.next_rows = 2;
  params.next_beam = constant<int32_t>(kBatch * 2, 0);
  params.next_row = constant<int32_t>(kBatch * 2, 0);
  params.next_token = constant<int64_t>(kBatch * 2, 0);
  check(params, cuda::tree_expand_workspace, cuda::tree_expand);
}

void compact_kv(int) {  // all but the first node of every path move by one slot
  constexpr int64_t kWidth = 48, kSlots = kNodes + 3;
  CompactKvParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes;
  params.path = array<int32_t>(kBatch * kNodes, [](int64_t i) {
    const int64_t j = i % kNodes;
    return j == 0 ? 0 : j + 1;
  });
  params.num_accepted = constant<int32_t>(kBatch, kNodes);
  params.length = array<int32_t>(kBatch, [](int64_t b) { return b; });
  params.start = params.length;
  params.layers = 3;
  params.cache_rows = kBatch;
  params.heads = 2;
  params.slots = kSlots;
  params.bytes = kWidth;
  params.slot_stride = kWidth;
  params.head_stride = kSlots * kWidth;
  params.row_stride = 2 * params.head_stride;
  params.kind_stride = kBatch * params.row_stride;
  params.layer_stride = 2 * params.kind_stride;
  params.cache = constant<char>(3 * params.layer_stride, 1);
  check(params, cuda::compact_kv_workspace, cuda::compact_kv);
}

// A root with three children, two of which have one.
void tree_verify(int rule) {
  constexpr int64_t kFew = 5;
  const auto links = [](std::vector<int32_t> row) {
    return array<int32_t>(kBatch * static_cast<int64_t>(row.size()),
                          [row](int64_t i) { return row[static_cast<size_t>(i) % row.size()]; });
  };
  TreeVerifyParams params = {};
  params.batch = kBatch;
  params.nodes = kFew;
  params.rows = rows();
  params.target = logits(kFew + 1);
  params.sampling = sampling();
  params.seed = below<int64_t>(kBatch, 99);
  params.draft_tokens = below<int64_t>(kBatch * kFew, kVocab);
  params.first_child = links({0, 3, 4, -1, -1, -1});
  params.next_sibling = links({1, 2, -1, -1, -1});
  params.valid = constant<bool>(kBatch, 1);
  params.live = constant<bool>(kBatch, 1);
  params.round = constant<int64_t>(kBatch, 0);
  params.draft = logits(kFew + 1);
  params.draft_rows = kBatch;
  params.stats = array<float>(kBatch * (kFew + 1) * kStatsColumns, [](int64_t i) {
    const int64_t column = i % kStatsColumns;
    return column == kCutoff ? -INFINITY : column == kTemperature ? 1.0 : -0.5;
  });
  params.rule = static_cast<Rule>(rule);
  params.position = constant<int64_t>(kBatch, 0);
  params.tokens = constant<int64_t>(kBatch * (kFew + 1), 0);
  params.path = constant<int32_t>(kBatch * kFew, 0);
  params.num_accepted = constant<int32_t>(kBatch, 0);
  params.num_emitted = constant<int32_t>(kBatch, 0);
  params.last_token = constant<int64_t>(kBatch, 0);
  params.status = constant<int32_t>(kBatch, 0);
  check(params, cuda::tree_verify_workspace, cuda::tree_verify);
  params.draft.data = nullptr;
  check(params, cuda::tree_verify_workspace, cuda::tree_verify);
}

const struct {
  const char* name;
  void (*run)(int);
} kOps[] = {{"row_stats", row_stats},           {"sample", sample},
            {"proposal_reset", proposal_reset}, {"proposal_load", proposal_load},
            {"draft_step", draft_step},         {"verify", verify},
            {"bandit_select", bandit_select},   {"bandit_update", bandit_update},
            {"bandit_step", bandit_step},       {"tree_layout", tree_layout},
            {"tree_mask", tree_mask},           {"tree_mask_flat", tree_mask_flat},
            {"compact_kv", compact_kv},         {"tree_verify", tree_verify},
            {"tree_rerank", tree_rerank},       {"tree_expand", tree_expand}};

}  // namespace

int main(int count, char** arguments) {
  for (const auto& op : kOps) {
    if (count == 3 && op.name == std::string(arguments[1])) {
      op.run(atoi(arguments[2]));
      return 0;
    }
  }
  fprintf(stderr, "usage: race_check OP NUMBER\n");
  return 2;
}
