// copy_rows: rows of one table to rows of another: embeddings of tokens, states to where they are
// kept.
#include <string.h>

#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

void copy_rows(const CopyRowsParams& params) {
  for (int64_t i = 0; i < params.count; ++i) {
    const int64_t row = params.take ? params.take[i] : i, at = params.place ? params.place[i] : i;
    if (at < 0 || at >= params.to) continue;
    char* to = static_cast<char*>(params.out) + at * params.bytes;
    if (row >= 0 && row < params.from) {
      memcpy(to, static_cast<const char*>(params.source) + row * params.bytes, params.bytes);
    } else {
      memset(to, 0, params.bytes);
    }
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
