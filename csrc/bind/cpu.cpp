// The operators on the host: the kernels of the best instruction set, on the threads of torch.
#include <memory>

#include "../cpu/dispatch.h"
#include "backend.h"
#include "recording.h"
#include "team.h"

namespace tapout::bind {
namespace {

// A selection with the scratch that ucb1 and ucb_tuned need.
class Selection {
 public:
  explicit Selection(const BanditSelectParams& params)
      : group_rows_(new int32_t[params.tables.groups]()),
        scored_(
            new ScoredArm[params.tables.groups * params.tables.table_slots * params.tables.arms]),
        params_(params) {
    params_.group_rows = group_rows_.get();
    params_.scored = scored_.get();
  }
  const BanditSelectParams& params() const { return params_; }

 private:
  std::unique_ptr<int32_t[]> group_rows_;
  std::unique_ptr<ScoredArm[]> scored_;
  BanditSelectParams params_;
};

// A round with the scratch that hedges need.
class Lesson {
 public:
  explicit Lesson(const BanditUpdateParams& params) : params_(params) {
    if (params.policy >= Policy::kHedge) losses_.reset(new RuleLoss[params.arms]);
    params_.losses = losses_.get();
  }
  const BanditUpdateParams& params() const { return params_; }

 private:
  std::unique_ptr<RuleLoss[]> losses_;
  BanditUpdateParams params_;
};

void now(const RowStatsParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.row_stats(params, TorchTeam(ops, params.logits.vocab).team());
}

void now(const SampleParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.sample(params, TorchTeam(ops, params.logits.vocab).team());
}

void now(const ProposalResetParams& params) { cpu_ops().proposal_reset(params); }

void now(const ProposalLoadParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.proposal_load(params, TorchTeam(ops, params.logits.vocab).team());
}

void now(const DraftStepParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.draft_step(params, TorchTeam(ops, params.logits.vocab).team());
}

void now(const VerifyParams& params) {
  const CpuOps& ops = cpu_ops();
  const int64_t scratch = ops.verify_scratch_bytes(params.target.vocab, params.slots, params.rule);
  ops.verify(params, TorchTeam(scratch).team());
}

void now(const BanditSelectParams& params) { cpu_ops().bandit_select(Selection(params).params()); }

void now(const BanditUpdateParams& params) { cpu_ops().bandit_update(Lesson(params).params()); }

void now(const BanditUpdateParams& update, const BanditSelectParams& select) {
  const Lesson lesson(update);  // what can fail comes before the first write
  const Selection selection(select);
  cpu_ops().bandit_update(lesson.params());
  cpu_ops().bandit_select(selection.params());
}

void now(const TreeLayoutParams& params) { cpu_ops().tree_layout(params); }

void now(const TreeMaskParams& params) { cpu_ops().tree_mask(params); }

void now(const TreeMaskFlatParams& params) { cpu_ops().tree_mask_flat(params); }

void now(const TreeVerifyParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.tree_verify(params, TorchTeam(ops, params.target.vocab).team());
}

void now(const TreeAttentionParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.tree_attention(params, TorchTeam(ops.tree_attention_scratch_bytes(params)).team());
}

void now(const TreeExpandParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.tree_expand(params, TorchTeam(ops, params.logits.vocab).team());
}

void now(const TreeRerankParams& params) { cpu_ops().tree_rerank(params); }

void now(const CompactKvParams& params) { cpu_ops().compact_kv(params, TorchTeam(0).team()); }

void now(const LinearParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.linear(params, TorchTeam(ops.linear_scratch_bytes(params)).team());
}

void now(const RmsNormParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.rms_norm(params, TorchTeam(0).team());
}

void now(const CopyRowsParams& params) { cpu_ops().copy_rows(params); }

void now(const HeadInputsParams& params) {
  const CpuOps& ops = cpu_ops();
  ops.head_inputs(params, TorchTeam(0).team());
}

void now(const DecoderLayerParams& params) {
  const CpuOps& ops = cpu_ops();
  const TorchTeam team(0);
  const int64_t bytes = ops.decoder_layer_workspace_bytes(params, team.team().workers);
  const std::unique_ptr<char[]> workspace(new char[bytes]);
  ops.decoder_layer(params, workspace.get(), team.team());
}

// Runs a kernel, and keeps the call where calls are recorded.
template <class... Params>
void perform(const Params&... params) {
  now(params...);
  keep([params...] { now(params...); });
}

}  // namespace

const char* const kDevice = "the cpu";

bool is_here(const Tensor& tensor, int32_t) { return tensor.is_cpu(); }

void run(const RowStatsParams& params, const Tensor&) { perform(params); }
void run(const SampleParams& params, const Tensor&) { perform(params); }
void run(const ProposalResetParams& params, const Tensor&) { perform(params); }
void run(const ProposalLoadParams& params, const Tensor&) { perform(params); }
void run(const DraftStepParams& params, const Tensor&) { perform(params); }
void run(const VerifyParams& params, const Tensor&) { perform(params); }
void run(const BanditSelectParams& params, const Tensor&) { perform(params); }
void run(const BanditUpdateParams& params, const Tensor&) { perform(params); }
void run(const BanditUpdateParams& update, const BanditSelectParams& select, const Tensor&) {
  perform(update, select);
}
void run(const TreeLayoutParams& params, const Tensor&) { perform(params); }
void run(const TreeMaskParams& params, const Tensor&) { perform(params); }
void run(const TreeMaskFlatParams& params, const Tensor&) { perform(params); }
void run(const TreeVerifyParams& params, const Tensor&) { perform(params); }
void run(const TreeAttentionParams& params, const Tensor&) { perform(params); }
void run(const TreeExpandParams& params, const Tensor&) { perform(params); }
void run(const TreeRerankParams& params, const Tensor&) { perform(params); }
void run(const CompactKvParams& params, const Tensor&) { perform(params); }
void run(const LinearParams& params) { perform(params); }
void run(const RmsNormParams& params) { perform(params); }
void run(const CopyRowsParams& params) { perform(params); }
void run(const HeadInputsParams& params) { perform(params); }
void run(const DecoderLayerParams& params) { perform(params); }

}  // namespace tapout::bind
