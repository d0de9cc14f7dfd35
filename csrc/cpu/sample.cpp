// sample: one token from the target alone; `verify` of an empty draft, with the same noise.
#include "../core/rng.h"
#include "draw.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

void sample(const SampleParams& params, const Team& team) {
  for_each_row(team, params.batch, [&](const Team& crew, int64_t b) {
    params.tokens[b] = -1;
    if (params.live && !params.live[b]) return;
    const RowSampling sampling = row_sampling(params.sampling, b, params.rule, params.logits.vocab);
    RowLaw law = row_law(row_at(params.logits, b, 0), sampling, false, crew);
    const double uniform = uniform_at(params.seed[b], 0, 0, params.rng_round[b], Domain::kResidual);
    params.rng_round[b] += 1;
    if (law.status != Status::kOk) return;
    params.tokens[b] = draw(law, uniform);
    params.position[b] += 1;
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
