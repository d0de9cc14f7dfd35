#include "team.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

namespace tapout::bind {
namespace {

// Rows differ in cost (a request ends at its first rejection), so workers take them one by one.
void run(int64_t n, void (*body)(void*, int64_t, int64_t), void* context) {
  const int64_t workers = std::min<int64_t>(n, torch::stable::get_num_threads());
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
        body(context, worker, i);
      }
    }
  });
}

}  // namespace

TorchTeam::TorchTeam(int64_t scratch_bytes) {
  const int64_t workers = torch::stable::get_num_threads();
  scratch_.reset(new char[workers * scratch_bytes]);
  team_ = {workers, run, scratch_.get(), scratch_bytes};
}

}  // namespace tapout::bind
