// Every CPU kernel, once per instruction set: the function table and the kernels' declarations.
#pragma once

#include "../core/decoder_params.h"
#include "../core/tree_params.h"
#include "team.h"

namespace tapout {

struct CpuOps {
  const char* isa;
  int64_t (*scratch_bytes)(int64_t vocab);  // per worker
  int64_t (*verify_scratch_bytes)(int64_t vocab, int64_t slots, Rule rule);
  void (*row_stats)(const RowStatsParams&, const Team&);
  void (*sample)(const SampleParams&, const Team&);
  void (*proposal_reset)(const ProposalResetParams&);
  void (*proposal_load)(const ProposalLoadParams&, const Team&);
  void (*draft_step)(const DraftStepParams&, const Team&);
  void (*verify)(const VerifyParams&, const Team&);
  void (*bandit_select)(const BanditSelectParams&);
  void (*bandit_update)(const BanditUpdateParams&);
  void (*tree_layout)(const TreeLayoutParams&);
  void (*tree_mask)(const TreeMaskParams&);
  void (*tree_mask_flat)(const TreeMaskFlatParams&);
  void (*tree_verify)(const TreeVerifyParams&, const Team&);
  int64_t (*tree_attention_scratch_bytes)(const TreeAttentionParams&);  // per worker
  void (*tree_attention)(const TreeAttentionParams&, const Team&);
  void (*tree_expand)(const TreeExpandParams&, const Team&);
  void (*tree_rerank)(const TreeRerankParams&);
  void (*compact_kv)(const CompactKvParams&, const Team&);
  int64_t (*linear_scratch_bytes)(const LinearParams&);  // of the first worker
  void (*linear)(const LinearParams&, const Team&);
  void (*rms_norm)(const RmsNormParams&, const Team&);
  void (*copy_rows)(const CopyRowsParams&);
  void (*head_inputs)(const HeadInputsParams&, const Team&);
  int64_t (*decoder_layer_workspace_bytes)(const DecoderLayerParams&, int64_t workers);
  void (*decoder_layer)(const DecoderLayerParams&, char* workspace, const Team&);
};

inline namespace TAPOUT_ISA {

int64_t scratch_bytes(int64_t vocab);
int64_t verify_scratch_bytes(int64_t vocab, int64_t slots, Rule rule);
void row_stats(const RowStatsParams& params, const Team& team);
void sample(const SampleParams& params, const Team& team);
void proposal_reset(const ProposalResetParams& params);
void proposal_load(const ProposalLoadParams& params, const Team& team);
void draft_step(const DraftStepParams& params, const Team& team);
void verify(const VerifyParams& params, const Team& team);
void bandit_select(const BanditSelectParams& params);
void bandit_update(const BanditUpdateParams& params);
void tree_layout(const TreeLayoutParams& params);
void tree_mask(const TreeMaskParams& params);
void tree_mask_flat(const TreeMaskFlatParams& params);
void tree_verify(const TreeVerifyParams& params, const Team& team);
int64_t tree_attention_scratch_bytes(const TreeAttentionParams& params);
void tree_attention(const TreeAttentionParams& params, const Team& team);
void tree_expand(const TreeExpandParams& params, const Team& team);
void tree_rerank(const TreeRerankParams& params);
void compact_kv(const CompactKvParams& params, const Team& team);
int64_t linear_scratch_bytes(const LinearParams& params);
void linear(const LinearParams& params, const Team& team);
void rms_norm(const RmsNormParams& params, const Team& team);
void copy_rows(const CopyRowsParams& params);
void head_inputs(const HeadInputsParams& params, const Team& team);
int64_t decoder_layer_workspace_bytes(const DecoderLayerParams& params, int64_t workers);
void decoder_layer(const DecoderLayerParams& params, char* workspace, const Team& team);

const CpuOps& ops_table();

}  // namespace TAPOUT_ISA
}  // namespace tapout
