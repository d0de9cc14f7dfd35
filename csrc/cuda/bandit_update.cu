// bandit_update: a block for each group and slot (bandit_learn.cuh).
#include "bandit_learn.cuh"
#include "ops.h"

namespace tapout::cuda {

static __global__ void __launch_bounds__(kThreads, 1)
    bandit_update_kernel(const BanditUpdateParams params) {
  learn(params, cell_of_block(params.table_slots));
}

WorkspaceSize bandit_update_workspace(const BanditUpdateParams& params) {
  return {losses_bytes(params), 0};
}

cudaError_t bandit_update(const BanditUpdateParams& params, Workspace workspace, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  BanditUpdateParams own = params;
  own.losses = reinterpret_cast<RuleLoss*>(workspace.bytes);
  return launch(bandit_update_kernel, bandit_blocks(params.groups, params.table_slots), kThreads,
                {queue.stream}, own);
}

}  // namespace tapout::cuda
