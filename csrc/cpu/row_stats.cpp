// row_stats: every statistic of a row of logits, in one visit of it.
#include "law.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

void row_stats(const RowStatsParams& params, const Team& team) {
  for_each_row(team, params.batch, [&](const Team& crew, int64_t b) {
    const RowSampling sampling =
        row_sampling(params.sampling, b, Rule::kToken, params.logits.vocab);
    const RowLaw law =
        row_law(row_at(params.logits, params.mask, nullptr, b, 0), sampling, true, crew);
    float* stats = params.stats + b * kStatsColumns;
    if (law.status != Status::kOk) return write_invalid_stats(stats);
    write_stats(law, params.token ? law_log_probability(law, params.token[b]) : 0.0, stats);
  });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
