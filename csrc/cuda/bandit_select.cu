// bandit_select: a block for each group and slot (bandit_choose.cuh).
#include "bandit_choose.cuh"

namespace tapout::cuda {

static __global__ void __launch_bounds__(kThreads, 1)
    bandit_select_kernel(const BanditSelectParams params, const ChoiceScratch scratch) {
  choose(params, scratch, cell_of_block(params.tables.table_slots));
  finish_choice(params, scratch);
}

WorkspaceSize bandit_select_workspace(const BanditSelectParams& params) {
  return choice_workspace(params, false);
}

cudaError_t bandit_select(const BanditSelectParams& params, Workspace workspace, Queue queue) {
  if (too_many_entries(params)) return cudaErrorInvalidValue;
  const unsigned blocks = bandit_blocks(params.tables.groups, params.tables.table_slots);
  return launch(bandit_select_kernel, blocks, kThreads, {queue.stream}, params,
                choice_scratch(params, false, workspace));
}

}  // namespace tapout::cuda
