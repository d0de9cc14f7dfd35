#include "backend.h"

namespace tapout::bind {

void sample(const Tensor& logits,  // [B, V]
            const OptionalTensor& temperature, const OptionalTensor& top_k,
            const OptionalTensor& top_p, const OptionalTensor& min_p,
            const OptionalTensor& token_mask,  // [B, ceil(V/32)]
            const Tensor& seed,                // [R]
            const OptionalTensor& live,        // [B]
            const OptionalTensor& rows,        // [B]
            int64_t rule,
            const Tensor& rng_round,  // [R]
            const Tensor& position,   // [R]
            const Tensor& tokens) {   // [B]
  const Arguments arguments("sample", logits);
  const int64_t batch = arguments.size("logits", logits, 2, 0);
  SampleParams params = {};
  params.batch = batch;
  params.rows = arguments.rows(rows, batch, arguments.size("seed", seed, 1, 0));
  const int64_t states = params.rows.count;
  params.logits = arguments.logits("logits", logits, {batch, logits.size(1)});
  params.sampling = arguments.sampling(temperature, top_k, top_p, min_p, states);
  params.mask = arguments.mask(token_mask, {batch, mask_words(params.logits.vocab)});
  params.seed = arguments.input<int64_t>("seed", seed, {states});
  params.live = arguments.input<bool>("live", live, {batch});
  params.rule = arguments.rule(rule);
  params.rng_round = arguments.data<int64_t>("rng_round", rng_round, {states});
  params.position = arguments.data<int64_t>("position", position, {states});
  params.tokens = arguments.data<int64_t>("tokens", tokens, {batch});
  run(params, logits);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(sample)
