// Every CUDA kernel's launcher. Parameters hold device pointers and go to the kernel by value; a
// launcher allocates nothing, waits for nothing and returns the first error. A batch of 0 launches
// nothing.
#pragma once

#include <stdint.h>

#include "../core/tree_params.h"
#include "runtime.h"

namespace tapout::cuda {

// Scratch of one call: bytes hold anything (16-byte aligned at least), tickets are 0 between
// launches.
struct Workspace {
  char* bytes;
  uint32_t* tickets;
};

struct WorkspaceSize {
  int64_t bytes;
  int64_t tickets;
};

struct Queue {
  cudaStream_t stream;
  int multiprocessors;
};

// The round that is learnt from, and the choice that follows it.
struct BanditStepParams {
  BanditUpdateParams update;
  BanditSelectParams select;
};

WorkspaceSize row_stats_workspace(const RowStatsParams& params);
WorkspaceSize sample_workspace(const SampleParams& params);
WorkspaceSize proposal_reset_workspace(const ProposalResetParams& params);
WorkspaceSize proposal_load_workspace(const ProposalLoadParams& params);
WorkspaceSize draft_step_workspace(const DraftStepParams& params);
WorkspaceSize verify_workspace(const VerifyParams& params);
WorkspaceSize bandit_select_workspace(const BanditSelectParams& params);
WorkspaceSize bandit_update_workspace(const BanditUpdateParams& params);
WorkspaceSize bandit_step_workspace(const BanditStepParams& params);
WorkspaceSize tree_layout_workspace(const TreeLayoutParams& params);
WorkspaceSize tree_mask_workspace(const TreeMaskParams& params);
WorkspaceSize tree_mask_flat_workspace(const TreeMaskFlatParams& params);
WorkspaceSize compact_kv_workspace(const CompactKvParams& params);
WorkspaceSize tree_verify_workspace(const TreeVerifyParams& params);
WorkspaceSize tree_rerank_workspace(const TreeRerankParams& params);
WorkspaceSize tree_expand_workspace(const TreeExpandParams& params);

cudaError_t row_stats(const RowStatsParams& params, Workspace scratch, Queue queue);
cudaError_t sample(const SampleParams& params, Workspace scratch, Queue queue);
cudaError_t proposal_reset(const ProposalResetParams& params, Workspace scratch, Queue queue);
cudaError_t proposal_load(const ProposalLoadParams& params, Workspace scratch, Queue queue);
cudaError_t draft_step(const DraftStepParams& params, Workspace scratch, Queue queue);
cudaError_t verify(const VerifyParams& params, Workspace scratch, Queue queue);
cudaError_t bandit_select(const BanditSelectParams& params, Workspace scratch, Queue queue);
cudaError_t bandit_update(const BanditUpdateParams& params, Workspace scratch, Queue queue);
cudaError_t bandit_step(const BanditStepParams& params, Workspace scratch, Queue queue);
cudaError_t tree_layout(const TreeLayoutParams& params, Workspace scratch, Queue queue);
cudaError_t tree_mask(const TreeMaskParams& params, Workspace scratch, Queue queue);
cudaError_t tree_mask_flat(const TreeMaskFlatParams& params, Workspace scratch, Queue queue);
cudaError_t compact_kv(const CompactKvParams& params, Workspace scratch, Queue queue);
cudaError_t tree_verify(const TreeVerifyParams& params, Workspace scratch, Queue queue);
cudaError_t tree_rerank(const TreeRerankParams& params, Workspace scratch, Queue queue);
cudaError_t tree_expand(const TreeExpandParams& params, Workspace scratch, Queue queue);

}  // namespace tapout::cuda
