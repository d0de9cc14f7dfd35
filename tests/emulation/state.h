// What the runtime knows of the launch that is running. One launch runs at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "emulator.h"
#include "fibers.h"

namespace emulator {

constexpr unsigned kLanes = 32;
constexpr unsigned kMostThreads = 1024;
constexpr uint32_t kEveryLane = 0xFFFFFFFFu;

struct Site {
  const char* file = "";
  int line = 0;
};

struct Block;

constexpr size_t kMostDynamic = 227 << 10;
constexpr size_t kArena = kMostDynamic + (128 << 10);

struct alignas(128) Arena {
  unsigned char bytes[kArena];
};

struct Warp {
  Block* block = nullptr;
  unsigned first_thread = 0;
  uint32_t runnable = 0;  // one bit a lane, the running one included
  uint32_t arrived = 0;   // at the meeting of `kind` at `site`
  uint32_t ended = 0;
  uint32_t waited = 0;  // for the kernel before
  int listed = -1;      // index in State::ready
  uint64_t meetings = 0;
  char order[2];
  Meeting kind = Meeting::kMax;
  Site site;
  uint64_t given[kLanes];
  uint32_t argument[kLanes];
  uint64_t result[kLanes];
  Context lanes[kLanes];
};

// A place where one block after the other runs, with its stacks and its shared memory.
struct Block {
  bool running = false;
  unsigned index = 0;
  unsigned waiting = 0;  // threads at the barrier at `barrier`
  uint64_t barriers = 0;
  char order[2];  // of the memory accesses around a barrier, for the race check
  unsigned ended = 0;
  Site barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<Stack> stacks;
  std::unique_ptr<Arena> shared;
  size_t dirty = 0;  // bytes of `shared` that may not be as at first
};

struct State {
  Launch launch;
  uint64_t number = 0;  // of the launch
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<Warp*> ready;                // warps with a runnable lane
  std::vector<SharedVariable*> variables;  // by offset
  SharedVariable dynamic{"the launch's bytes", "SHARED_DYN", 0, 0, 0, 0};
  size_t shared_end = 0;
  Context host;
  char first, last;      // what precedes and what follows every thread, for the race check
  Warp* warp = nullptr;  // that runs now
  unsigned lane = 0;
  uint64_t random = 0;
  int64_t switches = 0;
  int64_t polls = 0;
  bool failed = false;
  std::string error;
};

extern State state;

inline uint32_t random_bits() {  // Marsaglia's xorshift64*
  uint64_t x = state.random;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  state.random = x;
  return static_cast<uint32_t>(x * 0x2545F4914F6CDD1Dull >> 32);
}

inline unsigned random_below(unsigned n) {
  return static_cast<unsigned>(static_cast<uint64_t>(random_bits()) * n >> 32);
}

inline uint32_t lane_bit() { return 1u << state.lane; }

// scheduler.cpp
void make_runnable(Warp& warp, uint32_t lanes);
void suspend();  // until another lane makes the running one runnable again

[[noreturn]] void give_up();  // from a lane; the launch has failed

// shared.cpp
void lay_out_shared();
void reset_shared(Block& block);
void leave_shared(Block& block);
void check_shared(const Block& block, const std::string& when);

// report.cpp. The launch ends with this error; from a lane fail() does not return.
void fail(const std::string& error);
std::string at(Site site);
std::string running_thread();  // "thread 3 of block 0"
const char* name_of(Meeting kind);
std::string why_nothing_runs();

}  // namespace emulator
