// Every operator's kernels on small inputs, in a few orders: to be compiled with ThreadSanitizer,
// which sees each CUDA thread as a thread of its own. A program of its own because the sanitizer
// cannot be loaded into Python.  Arguments: the operator, and the number of its rule or policy.
#include "race_inputs.h"
#include "race_trees.h"

namespace {

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
