// bandit_step: a finished round is learnt from and the next arms are chosen, in one launch. At
// token level the block of slot 0 looks up what another slot's arm was: new arms, which may go
// where the old ones are, wait in the workspace until every block is done.
#include "bandit_choose.cuh"
#include "bandit_learn.cuh"

namespace tapout::cuda {

static __global__ void __launch_bounds__(kThreads, 1)
    bandit_step_kernel(const BanditStepParams params, const ChoiceScratch scratch) {
  const BanditCell cell = cell_of_block(params.update.table_slots);
  learn(params.update, cell);
  choose(params.select, scratch, cell);
  finish_choice(params.select, scratch);
}

WorkspaceSize bandit_step_workspace(const BanditStepParams& params) {
  const WorkspaceSize choice = choice_workspace(params.select, true);
  return {losses_bytes(params.update) + choice.bytes, choice.tickets};
}

cudaError_t bandit_step(const BanditStepParams& params, Workspace workspace, Queue queue) {
  if (too_many_entries(params.select)) return cudaErrorInvalidValue;
  const unsigned blocks = bandit_blocks(params.update.groups, params.update.table_slots);
  BanditStepParams own = params;
  own.update.losses = reinterpret_cast<RuleLoss*>(workspace.bytes);
  workspace.bytes += losses_bytes(params.update);
  return launch(bandit_step_kernel, blocks, kThreads, {queue.stream}, own,
                choice_scratch(params.select, true, workspace));
}

}  // namespace tapout::cuda
