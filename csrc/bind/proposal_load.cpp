#include "../cpu/dispatch.h"
#include "proposal_view.h"
#include "team.h"

namespace tapout::bind {

void proposal_load(const Tensor& source,                 // [B, N]
                   const OptionalTensor& source_length,  // [B]
                   const OptionalTensor& logits,         // [B, N, V]
                   const OptionalTensor& temperature, const OptionalTensor& top_k,
                   const OptionalTensor& top_p, const OptionalTensor& rule_kind,
                   const OptionalTensor& rule_param, const OptionalTensor& arm,
                   const OptionalTensor& memory,
                   const Tensor& max_length,  // [B]
                   const Tensor& tokens, const Tensor& length, const Tensor& active,
                   const Tensor& num_active, const Tensor& stats, const Tensor& stop_reason) {
  const Arguments arguments("proposal_load");
  ProposalLoadParams params = {};
  params.proposal =
      proposal_view(arguments, tokens, length, active, num_active, stats, stop_reason);
  const int64_t batch = params.proposal.batch;
  params.columns = arguments.size("source", source, 2, 1);
  params.source = arguments.input<int64_t>("source", source, {batch, params.columns});
  params.source_length = arguments.input<int32_t>("source_length", source_length, {batch});
  params.logits.vocab = 1;
  if (logits) {
    const int64_t vocab = arguments.size("logits", *logits, 3, 2);
    params.logits = arguments.logits("logits", *logits, {batch, params.columns, vocab});
  }
  params.sampling = arguments.sampling(temperature, top_k, top_p, batch);
  params.rules = arguments.rules(rule_kind, rule_param, arm, memory, batch);
  params.max_length = arguments.input<int32_t>("max_length", max_length, {batch});
  const CpuOps& ops = cpu_ops();
  ops.proposal_load(params, TorchTeam(ops, params.logits.vocab).team());
}

}  // namespace tapout::bind

STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) {
  m.impl("proposal_load", TORCH_BOX(&tapout::bind::proposal_load));
  m.impl("proposal_load.cpu", TORCH_BOX(&tapout::bind::proposal_load));
}
