// The threads of torch as a Team, with scratch memory for each.
#pragma once

#include <cstdint>
#include <memory>

#include "../cpu/ops.h"

namespace tapout::bind {

class TorchTeam {
 public:
  explicit TorchTeam(int64_t scratch_bytes);
  TorchTeam(const CpuOps& ops, int64_t vocab) : TorchTeam(ops.scratch_bytes(vocab)) {}
  const Team& team() const { return team_; }

 private:
  std::unique_ptr<char[]> scratch_;
  Team team_;
};

}  // namespace tapout::bind
