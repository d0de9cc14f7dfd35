// The function table of one instruction set (TAPOUT_ISA).
#include "law.h"
#include "ops.h"

#define TAPOUT_STRING(name) #name
#define TAPOUT_NAME(name) TAPOUT_STRING(name)

namespace tapout {
inline namespace TAPOUT_ISA {

int64_t scratch_bytes(int64_t vocab) {
  const int64_t bytes = num_chunks(vocab) * (sizeof(double) + sizeof(ChunkStats));
  return (bytes + 63) / 64 * 64;  // workers do not share cache lines
}

const CpuOps& ops_table() {
  static const CpuOps table = {TAPOUT_NAME(TAPOUT_ISA),
                               scratch_bytes,
                               verify_scratch_bytes,
                               row_stats,
                               sample,
                               proposal_reset,
                               proposal_load,
                               draft_step,
                               verify,
                               bandit_select,
                               bandit_update,
                               tree_layout,
                               tree_mask,
                               tree_mask_flat,
                               tree_verify,
                               tree_attention_scratch_bytes,
                               tree_attention,
                               tree_expand,
                               tree_rerank,
                               compact_kv,
                               linear_scratch_bytes,
                               linear,
                               rms_norm,
                               copy_rows,
                               head_inputs,
                               decoder_layer_workspace_bytes,
                               decoder_layer};
  return table;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
