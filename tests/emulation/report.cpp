// What is said of a kernel that does something wrong: where, which thread, and what it met.
#include "state.h"

namespace emulator {

std::string at(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

static std::string thread_of(const Warp& warp, unsigned lane) {
  return "thread " + std::to_string(warp.first_thread + lane) + " of block " +
         std::to_string(warp.block->index);
}

std::string running_thread() { return thread_of(*state.warp, state.lane); }

const char* name_of(Meeting kind) {
  switch (kind) {
    case Meeting::kMax: return "warp_max";
    case Meeting::kMin: return "warp_min";
    case Meeting::kOr: return "warp_or";
    case Meeting::kBallot: return "warp_ballot";
    case Meeting::kXor: return "shuffle_xor";
    case Meeting::kUp: return "shuffle_up";
    case Meeting::kFrom: return "shuffle_from";
    case Meeting::kSyncWarp: return "__syncwarp";
  }
  return "";
}

void fail(const std::string& error) {
  state.error = error;
  state.failed = true;
  if (state.warp) give_up();
}

void check_aligned(const void* p, size_t alignment, const char* file, int line) {
  if (reinterpret_cast<uintptr_t>(p) % alignment == 0) return;
  fail(at({file, line}) + ": " + running_thread() + " accesses " + std::to_string(alignment) +
       " bytes at an address that is not a multiple of it");
}

// Why lanes of `warp` wait in a collective for ever; "" if they do not.
static std::string stuck(const Warp& warp) {
  if (!warp.arrived) return "";
  const unsigned missing = static_cast<unsigned>(__builtin_ctz(~warp.arrived));
  const std::string where = warp.ended >> missing & 1u
                                ? " has ended"
                                : " waits at the barrier " + at(warp.block->barrier);
  return at(warp.site) + ": " + name_of(warp.kind) + " waits for " + thread_of(warp, missing) +
         ", which" + where;
}

static std::string stuck(const Block& block) {
  for (const auto& warp : block.warps) {
    const std::string reason = stuck(*warp);
    if (!reason.empty()) return reason;
  }
  for (const auto& warp : block.warps) {
    if (!warp->ended) continue;
    const unsigned ended = static_cast<unsigned>(__builtin_ctz(warp->ended));
    return at(block.barrier) + ": __syncthreads waits for " + thread_of(*warp, ended) +
           ", which has ended";
  }
  return "";
}

std::string why_nothing_runs() {
  std::string reason;
  for (const auto& block : state.blocks) {
    if (block->running && reason.empty()) reason = stuck(*block);
  }
  return reason;
}

}  // namespace emulator
