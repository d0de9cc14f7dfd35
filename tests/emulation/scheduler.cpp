// Which lane runs: any runnable one of the running warp, else one of any warp of the blocks in
// flight, in an order that the seed decides.
#include <algorithm>
#include <mutex>
#include <numeric>

#include "state.h"

emulator::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

State state;

static struct {
  uint64_t seed = 1;
  unsigned blocks_in_flight = 3;
} order;
static int64_t launches = 0;
static std::mutex one_at_a_time;

constexpr int64_t kMostSwitches = int64_t{1} << 28;
constexpr int64_t kMostPolls = int64_t{1} << 22;

static void run_lane(Warp& warp, unsigned lane, bool ends) {
  Context& from = state.warp ? state.warp->lanes[state.lane] : state.host;
  if (++state.switches > kMostSwitches) {
    fail("the kernel does not end: " + std::to_string(kMostSwitches) + " switches");
    return;  // reached on the host only
  }
  state.warp = &warp;
  state.lane = lane;
  threadIdx.x = warp.first_thread + lane;
  blockIdx.x = warp.block->index;
  switch_context(from, warp.lanes[lane], ends);
}

static void run_host(bool ends) {
  Context& from = state.warp->lanes[state.lane];
  state.warp = nullptr;
  switch_context(from, state.host, ends);
}

static unsigned some_lane(uint32_t lanes) {
  const unsigned first = random_bits() % kLanes;
  const uint32_t turned = lanes >> first | lanes << (kLanes - first) % kLanes;
  return (static_cast<unsigned>(__builtin_ctz(turned)) + first) % kLanes;
}

void make_runnable(Warp& warp, uint32_t lanes) {
  warp.runnable |= lanes;
  if (warp.listed >= 0) return;
  warp.listed = static_cast<int>(state.ready.size());
  state.ready.push_back(&warp);
}

static void unlist(Warp& warp) {
  Warp* const last = state.ready.back();
  state.ready[static_cast<size_t>(warp.listed)] = last;
  last->listed = warp.listed;
  state.ready.pop_back();
  warp.listed = -1;
}

static void run_next(bool ends) {
  Warp* warp = state.warp;
  if (!warp->runnable) {
    unlist(*warp);
    if (state.ready.empty()) return run_host(ends);
    warp = state.ready[random_below(static_cast<unsigned>(state.ready.size()))];
  }
  run_lane(*warp, some_lane(warp->runnable), ends);
}

void suspend() { run_next(false); }

void preempt(unsigned odds) {
  if (random_below(odds) != 0) return;
  Warp* const warp = state.ready[random_below(static_cast<unsigned>(state.ready.size()))];
  const unsigned lane = some_lane(warp->runnable);
  if (warp != state.warp || lane != state.lane) run_lane(*warp, lane, false);
}

void poll(const char* file, int line) {
  if (++state.polls > kMostPolls) {
    fail(at({file, line}) + ": " + running_thread() + " waits for what does not happen");
  }
  preempt(2);
}

void wait_for_previous() { state.warp->waited |= lane_bit(); }

static void end_thread() {
  Warp& warp = *state.warp;
  Block& block = *warp.block;
  if (state.launch.overlaps_previous && !(warp.waited & lane_bit())) {
    fail(running_thread() + " did not call wait_for_previous_kernel");
  }
  warp.ended |= lane_bit();
  warp.runnable &= ~lane_bit();
  ordered(&state.last, true);
  if (++block.ended < state.launch.threads) return run_next(true);
  unlist(warp);
  run_host(true);
}

static void thread_main() {
  arrived_first(state.host);
  ordered(&state.first, false);
  state.launch.thread(state.launch.arguments);
  end_thread();
  __builtin_unreachable();
}

static void start(Block& block, unsigned index) {
  const unsigned threads = state.launch.threads;
  while (block.stacks.size() < threads) block.stacks.push_back(make_stack());
  block.running = true;
  block.index = index;
  block.waiting = block.ended = 0;
  reset_shared(block);
  block.warps.resize(threads / kLanes);
  for (unsigned first = 0; first < threads; first += kLanes) {
    auto& warp = block.warps[first / kLanes];
    if (!warp) warp = std::make_unique<Warp>();
    warp->block = &block;
    warp->first_thread = first;
    warp->runnable = warp->arrived = warp->ended = warp->waited = 0;
    warp->listed = -1;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      prepare(warp->lanes[lane], block.stacks[first + lane], first + lane, thread_main);
    }
    make_runnable(*warp, kEveryLane);
  }
}

static void stop(Block& block) {
  block.running = false;
  leave_shared(block);
  for (const auto& warp : block.warps) {
    for (Context& lane : warp->lanes) dispose(lane);
  }
  if (!state.failed) check_shared(block, "at the end of the block");
}

static std::vector<unsigned> shuffled(unsigned blocks) {
  std::vector<unsigned> indices(blocks);
  std::iota(indices.begin(), indices.end(), 0u);
  for (unsigned left = blocks; left > 1; --left) {
    std::swap(indices[left - 1], indices[random_below(left)]);
  }
  return indices;
}

static void run_blocks() {
  std::vector<unsigned> waiting = shuffled(state.launch.blocks);
  while (!state.failed) {
    bool running = false;
    for (unsigned place = 0; place < order.blocks_in_flight; ++place) {
      Block& block = *state.blocks[place];
      if (block.running && block.ended == state.launch.threads) stop(block);
      if (!block.running && !waiting.empty()) {
        start(block, waiting.back());
        waiting.pop_back();
      }
      running |= block.running;
    }
    if (!running || state.failed) break;
    if (state.ready.empty()) return fail(why_nothing_runs());
    Warp& warp = *state.ready[random_below(static_cast<unsigned>(state.ready.size()))];
    run_lane(warp, some_lane(warp.runnable), false);
  }
}

void give_up() {
  run_host(true);
  __builtin_unreachable();
}

static bool valid(const Launch& launch) {
  return launch.blocks > 0 && launch.threads > 0 && launch.threads <= kMostThreads &&
         launch.threads % kLanes == 0 && launch.shared_bytes <= kMostDynamic;
}

cudaError_t run(const Launch& launch) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  state.error.clear();
  state.failed = false;
  if (!valid(launch)) {
    fail("a launch of " + std::to_string(launch.blocks) + " blocks of " +
         std::to_string(launch.threads) + " threads with " + std::to_string(launch.shared_bytes) +
         " bytes of shared memory is not possible");
    return cudaErrorInvalidConfiguration;
  }
  ++launches;
  state.launch = launch;
  ++state.number;
  state.random = order.seed * 0x9E3779B97F4A7C15ull | 1;
  state.switches = state.polls = 0;
  state.ready.clear();
  blockDim.x = launch.threads;
  gridDim.x = launch.blocks;
  while (state.blocks.size() < order.blocks_in_flight) {
    state.blocks.push_back(std::make_unique<Block>());
  }
  state.host = Context();
  state.ready.reserve(order.blocks_in_flight * kMostThreads / kLanes);
  lay_out_shared();
  ordered(&state.first, true);
  run_blocks();
  ordered(&state.last, false);
  for (const auto& block : state.blocks) {
    if (block->running) stop(*block);
  }
  return state.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace emulator

const char* emulator_error() { return emulator::state.error.c_str(); }

void emulator_configure(uint64_t seed, int blocks_in_flight) {
  emulator::order = {seed, static_cast<unsigned>(blocks_in_flight)};
}

int64_t emulator_launches() { return emulator::launches; }
void emulator_reset_launches() { emulator::launches = 0; }
int64_t emulator_switches() { return emulator::state.switches; }
