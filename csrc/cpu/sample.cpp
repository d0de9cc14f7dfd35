// sample: one token from the target alone; `verify` of an empty draft, with the same noise.
#include "../core/rng.h"
#include "../core/rows.h"
#include "draw.h"
#include "gumbel.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// `row` is the row of state.
static int64_t sample_row(const SampleParams& params, int64_t b, int64_t row, const Team& team) {
  const RowSampling sampling = row_sampling(params.sampling, row, params.rule, params.logits.vocab);
  RowLaw law = row_law(row_at(params.logits, params.mask, nullptr, b, 0), sampling, false, team);
  if (law.status != Status::kOk) return -1;
  const int64_t seed = params.seed[row];
  if (params.rule == Rule::kGumbel) return draw_gumbel(law, seed, params.position[row], team);
  return draw(law, uniform_at(seed, 0, 0, params.rng_round[row], Domain::kResidual));
}

void sample(const SampleParams& params, const Team& team) {
  for_each_row(team, params.batch, [&](const Team& crew, int64_t b) {
    const int64_t row = state_row(params.rows, b);
    params.tokens[b] = -1;
    if (row < 0 || (params.live && !params.live[b])) return;
    params.tokens[b] = sample_row(params, b, row, crew);
    params.rng_round[row] = offset_position(params.rng_round[row], 1);
    params.position[row] = offset_position(params.position[row], params.tokens[b] >= 0);
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
