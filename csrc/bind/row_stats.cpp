#include "backend.h"

namespace tapout::bind {

void row_stats(const Tensor& logits,  // [B, V]
               const OptionalTensor& temperature, const OptionalTensor& top_k,
               const OptionalTensor& top_p, const OptionalTensor& min_p,
               const OptionalTensor& token_mask,  // [B, ceil(V/32)]
               const OptionalTensor& token,       // [B]
               const Tensor& stats) {             // [B, 8]
  const Arguments arguments("row_stats", logits);
  const int64_t batch = arguments.size("logits", logits, 2, 0);
  RowStatsParams params = {};
  params.batch = batch;
  params.logits = arguments.logits("logits", logits, {batch, logits.size(1)});
  params.sampling = arguments.sampling(temperature, top_k, top_p, min_p, batch);
  params.mask = arguments.mask(token_mask, {batch, mask_words(params.logits.vocab)});
  params.token = arguments.input<int64_t>("token", token, {batch});
  params.stats = arguments.data<float>("stats", stats, {batch, kStatsColumns});
  run(params, logits);
}

}  // namespace tapout::bind

TAPOUT_REGISTER(row_stats)
