// Where lanes wait for each other: collectives of a warp, and the barrier of a block.
#include <string.h>

#include "state.h"

namespace emulator {

static bool same(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

static uint64_t of_all(const Warp& warp) {
  uint64_t value = warp.given[0];
  for (unsigned lane = 1; lane < kLanes; ++lane) {
    const uint64_t other = warp.given[lane];
    switch (warp.kind) {
      case Meeting::kMax: value = value < other ? other : value; break;
      case Meeting::kMin: value = value < other ? value : other; break;
      default: value |= other;
    }
  }
  return value;
}

// The lane that `lane` gets its value from.
static unsigned source(const Warp& warp, unsigned lane) {
  const uint32_t argument = warp.argument[lane];
  switch (warp.kind) {
    case Meeting::kXor: return (lane ^ argument) % kLanes;
    case Meeting::kUp: return lane < argument ? lane : lane - argument;
    default: return argument % kLanes;
  }
}

static void exchange(Warp& warp) {
  const bool shuffles =
      warp.kind == Meeting::kXor || warp.kind == Meeting::kUp || warp.kind == Meeting::kFrom;
  if (shuffles) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      warp.result[lane] = warp.given[source(warp, lane)];
    }
  } else if (warp.kind != Meeting::kSyncWarp) {
    const uint64_t value = of_all(warp);
    for (unsigned lane = 0; lane < kLanes; ++lane) warp.result[lane] = value;
  }
}

static void join_warp(Warp& warp, Meeting kind, Site site) {
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.site = site;
  } else if (kind != warp.kind || !same(site, warp.site)) {
    fail(at(site) + ": " + running_thread() + " reaches " + name_of(kind) + ", but thread " +
         std::to_string(warp.first_thread + static_cast<unsigned>(__builtin_ctz(warp.arrived))) +
         " of its warp waits in " + name_of(warp.kind) + " at " + at(warp.site));
  }
}

uint64_t meet_warp(Meeting kind, uint64_t value, uint32_t argument, const char* file, int line) {
  Warp& warp = *state.warp;
  const unsigned lane = state.lane;
  join_warp(warp, kind, {file, line});
  // A ballot collects one bit of each lane.
  warp.given[lane] = kind == Meeting::kBallot ? value << lane : value;
  warp.argument[lane] = argument;
  char* const order = kind == Meeting::kSyncWarp ? &warp.order[warp.meetings % 2] : nullptr;
  if (order) ordered(order, true);
  warp.arrived |= lane_bit();
  if (warp.arrived == kEveryLane) {
    exchange(warp);
    ++warp.meetings;
    warp.arrived = 0;
    warp.runnable = kEveryLane;
  } else {
    warp.runnable &= ~lane_bit();
    suspend();
  }
  if (order) ordered(order, false);
  return warp.result[lane];
}

void meet_block(const char* file, int line) {
  Block& block = *state.warp->block;
  const Site site{file, line};
  if (block.waiting == 0) {
    block.barrier = site;
  } else if (!same(site, block.barrier)) {
    fail(at(site) + ": " + running_thread() + " reaches __syncthreads, but " +
         std::to_string(block.waiting) + " of the block wait at another one, at " +
         at(block.barrier));
  }
  char* const order = &block.order[block.barriers % 2];
  ordered(order, true);
  state.warp->runnable &= ~lane_bit();
  if (++block.waiting == state.launch.threads) {
    check_shared(block, "at the barrier " + at(site));
    block.waiting = 0;
    ++block.barriers;
    for (const auto& warp : block.warps) make_runnable(*warp, kEveryLane);
  } else {
    suspend();
  }
  ordered(order, false);
}

}  // namespace emulator
