// The threads of torch as a Team, with scratch memory for rows of `vocab` logits.
#pragma once

#include <cstdint>
#include <memory>

#include "../cpu/ops.h"

namespace tapout::bind {

class TorchTeam {
 public:
  TorchTeam(const CpuOps& ops, int64_t vocab);
  const Team& team() const { return team_; }

 private:
  std::unique_ptr<char[]> scratch_;
  Team team_;
};

}  // namespace tapout::bind
