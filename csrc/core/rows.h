// Where the state of a batch row is: engines keep state per request slot, not per batch row.
#pragma once

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// The row of the tensors of R rows, or -1 where batch row b takes no part.
TAPOUT_HD int64_t state_row(const StateRows& rows, int64_t b) {
  const int64_t row = rows.index ? rows.index[b] : b;
  return row >= 0 && row < rows.count ? row : -1;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
