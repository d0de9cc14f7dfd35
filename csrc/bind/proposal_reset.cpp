#include "backend.h"
#include "proposal_view.h"

namespace tapout::bind {

void proposal_reset(const OptionalTensor& max_length,  // [B]
                    const OptionalTensor& prediction,  // [B]
                    const OptionalTensor& live,        // [B]
                    const OptionalTensor& rows,        // [B]
                    const OptionalTensor& rule_kind, const OptionalTensor& rule_param,
                    const OptionalTensor& arm, const OptionalTensor& memory,
                    const Tensor& rng_round,  // [R]
                    const Tensor& tokens, const Tensor& length,
                    const Tensor& out_max_length,  // [B]
                    const Tensor& active,
                    const Tensor& out_live,  // [B]
                    const Tensor& round,     // [B]
                    const Tensor& num_active, const Tensor& stats, const Tensor& stop_reason) {
  const Arguments arguments("proposal_reset", tokens);
  ProposalResetParams params = {};
  params.proposal =
      proposal_view(arguments, tokens, length, active, num_active, stats, stop_reason);
  const int64_t batch = params.proposal.batch;
  params.max_length = arguments.input<int32_t>("max_length", max_length, {batch});
  params.prediction = arguments.input<float>("prediction", prediction, {batch});
  params.live = arguments.input<bool>("live", live, {batch});
  params.rows = arguments.rows(rows, batch, arguments.size("rng_round", rng_round, 1, 0));
  const int64_t states = params.rows.count, slots = params.proposal.slots;
  params.rules = arguments.rules(rule_kind, rule_param, arm, memory, states, slots);
  if (rule_kind) {
    params.memory =
        arguments.data<float>("memory", *memory, {states, params.rules.arms, kRuleParams});
  }
  params.rng_round = arguments.data<int64_t>("rng_round", rng_round, {states});
  params.out_max_length = arguments.data<int32_t>("out_max_length", out_max_length, {batch});
  params.out_live = arguments.data<bool>("out_live", out_live, {batch});
  params.round = arguments.data<int64_t>("round", round, {batch});
  run(params, tokens);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(proposal_reset)
