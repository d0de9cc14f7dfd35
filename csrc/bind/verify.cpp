#include "../cpu/dispatch.h"
#include "checks.h"
#include "team.h"

namespace tapout::bind {

void verify(const Tensor& target_logits,  // [B, K+1, V]
            const OptionalTensor& temperature, const OptionalTensor& top_k,
            const OptionalTensor& top_p,
            const Tensor& seed,                  // [B]
            const Tensor& draft_tokens,          // [B, K]
            const Tensor& length,                // [B]
            const Tensor& live,                  // [B]
            const Tensor& round,                 // [B]
            const OptionalTensor& draft_logits,  // [B, K, V]
            const Tensor& stats,                 // [B, K, 8]
            int64_t rule,
            const Tensor& position,       // [B]
            const Tensor& tokens,         // [B, K+1]
            const Tensor& num_accepted,   // [B]
            const Tensor& num_emitted,    // [B]
            const Tensor& last_token,     // [B]
            const Tensor& status,         // [B]
            const Tensor& accept_prob) {  // [B, K]
  const Arguments arguments("verify");
  VerifyParams params = {};
  params.batch = arguments.size("draft_tokens", draft_tokens, 2, 0);
  params.slots = draft_tokens.size(1);
  const int64_t batch = params.batch, slots = params.slots;
  const int64_t vocab = arguments.size("target_logits", target_logits, 3, 2);
  params.target = arguments.logits("target_logits", target_logits, {batch, slots + 1, vocab});
  params.sampling = arguments.sampling(temperature, top_k, top_p, batch);
  params.seed = arguments.input<int64_t>("seed", seed, {batch});
  params.draft_tokens = arguments.input<int64_t>("draft_tokens", draft_tokens, {batch, slots});
  params.length = arguments.input<int32_t>("length", length, {batch});
  params.live = arguments.input<bool>("live", live, {batch});
  params.round = arguments.input<int64_t>("round", round, {batch});
  if (draft_logits) {
    params.draft = arguments.logits("draft_logits", *draft_logits, {batch, slots, vocab});
  }
  params.stats = arguments.input<float>("stats", stats, {batch, slots, kStatsColumns});
  params.rule = arguments.rule(rule);
  params.position = arguments.data<int64_t>("position", position, {batch});
  params.tokens = arguments.data<int64_t>("tokens", tokens, {batch, slots + 1});
  params.num_accepted = arguments.data<int32_t>("num_accepted", num_accepted, {batch});
  params.num_emitted = arguments.data<int32_t>("num_emitted", num_emitted, {batch});
  params.last_token = arguments.data<int64_t>("last_token", last_token, {batch});
  params.status = arguments.data<int32_t>("status", status, {batch});
  params.accept_prob = arguments.data<float>("accept_prob", accept_prob, {batch, slots});
  const CpuOps& ops = cpu_ops();
  ops.verify(params, TorchTeam(ops, vocab).team());
}

}  // namespace tapout::bind

STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) {
  m.impl("verify", TORCH_BOX(&tapout::bind::verify));
  m.impl("verify.cpu", TORCH_BOX(&tapout::bind::verify));
}
