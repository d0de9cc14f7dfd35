// When a round that is one CUDA graph drafts on, and how wide it verifies.
#pragma once

#include "macros.h"

namespace tapout {
inline namespace TAPOUT_ISA {

constexpr int kMaxVerifyWidths = 16;

// The verify forwards of a round, ascending, with the conditional handle (CUgraphConditionalHandle)
// of each one's IF node.
struct VerifyWidths {
  int32_t count;
  int32_t width[kMaxVerifyWidths];
  uint64_t handle[kMaxVerifyWidths];
};

TAPOUT_HD bool drafts_on(int32_t num_active, int32_t steps, int32_t slots) {
  return num_active > 0 && steps < slots;
}

// The first forward that can verify that many drafts; the last one can verify as many as there are.
TAPOUT_HD int32_t verify_choice(const VerifyWidths& widths, int32_t steps) {
  int32_t i = 0;
  while (i + 1 < widths.count && widths.width[i] < steps) ++i;
  return i;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
