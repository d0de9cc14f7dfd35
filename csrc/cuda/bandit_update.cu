// bandit_update: a block for each group and slot (bandit_learn.cuh).
#include "bandit_learn.cuh"
#include "ops.h"

namespace tapout::cuda {

static __global__ void __launch_bounds__(kThreads)
    bandit_update_kernel(const BanditUpdateParams params) {
  learn(params, cell_of_block(params.table_slots));
}

WorkspaceSize bandit_update_workspace(const BanditUpdateParams&) { return {0, 0}; }

cudaError_t bandit_update(const BanditUpdateParams& params, Workspace, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  return launch(bandit_update_kernel, bandit_blocks(params.groups, params.table_slots), kThreads,
                {queue.stream}, params);
}

}  // namespace tapout::cuda
