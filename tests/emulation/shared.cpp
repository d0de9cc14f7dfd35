// Shared memory: one array of bytes a block. Each variable lies at an address that is aligned for
// its type and no better, between bytes that nothing may touch. All of it holds 0xFF, which is NaN
// and -1, until something is written.
#include <algorithm>

#include "state.h"

#if defined(EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {

constexpr size_t kGap = 64;
constexpr size_t kMostStatic = 48 << 10;  // the chip's
constexpr unsigned char kUntouched = 0xFF;

// Under AddressSanitizer a touch of the bytes between is reported where it happens.
static void guard([[maybe_unused]] Block& block) {
#if defined(EMULATOR_ASAN)
  __asan_poison_memory_region(block.shared->bytes, kArena);
  for (const SharedVariable* variable : state.variables) {
    __asan_unpoison_memory_region(block.shared->bytes + variable->offset, variable->bytes);
  }
#endif
}

static void place(SharedVariable& variable, size_t bytes, size_t alignment) {
  const size_t step = 2 * alignment;
  variable.launch = state.number;
  variable.offset = (state.shared_end + kGap + step - 1) / step * step + alignment;
  variable.bytes = bytes;
  state.shared_end = variable.offset + bytes;
  state.variables.push_back(&variable);
}

static void add(SharedVariable& variable, size_t bytes, size_t alignment) {
  size_t total = bytes;
  for (const SharedVariable* other : state.variables) {
    if (other != &state.dynamic) total += other->bytes;
  }
  if (total > kMostStatic) {
    fail(at({variable.file, variable.line}) + ": with " + variable.name + " a block has " +
         std::to_string(total) + " bytes of static shared memory, more than 48 KiB");
  }
  place(variable, bytes, alignment);
  for (const auto& block : state.blocks) {
    if (block->running) guard(*block);
  }
}

void* shared_variable(SharedVariable& variable, size_t bytes, size_t alignment) {
  if (variable.launch != state.number) add(variable, bytes, alignment);
  return state.warp->block->shared->bytes + variable.offset;
}

void* shared_dynamic() { return state.warp->block->shared->bytes + state.dynamic.offset; }

void lay_out_shared() {
  state.variables.clear();
  state.variables.reserve(1024);  // the race check would see a fiber move them
  state.shared_end = 0;
  place(state.dynamic, state.launch.shared_bytes, 16);
}

void reset_shared(Block& block) {
  if (!block.shared) {
    block.shared = std::make_unique<Arena>();
    block.dirty = kArena;
  }
#if defined(EMULATOR_ASAN)
  __asan_unpoison_memory_region(block.shared->bytes, kArena);
#endif
  std::fill_n(block.shared->bytes, block.dirty, kUntouched);
  block.dirty = 0;
  guard(block);
}

void leave_shared(Block& block) { block.dirty = std::min(kArena, state.shared_end + kGap); }

static size_t end_of(const SharedVariable& variable) { return variable.offset + variable.bytes; }

// The first byte between variables that was written; the end of it all if none was.
static size_t first_overrun(const unsigned char* bytes) {
  size_t from = 0;
  const auto written = [](unsigned char byte) { return byte != kUntouched; };
  for (const SharedVariable* variable : state.variables) {
    const unsigned char* const found =
        std::find_if(bytes + from, bytes + variable->offset, written);
    if (found != bytes + variable->offset) return static_cast<size_t>(found - bytes);
    from = end_of(*variable);
  }
  const unsigned char* const end = bytes + state.shared_end + kGap;
  return static_cast<size_t>(std::find_if(bytes + from, end, written) - bytes);
}

static size_t distance(const SharedVariable& variable, size_t byte) {
  return byte < variable.offset ? variable.offset - byte : byte - end_of(variable) + 1;
}

void check_shared(const Block& block, const std::string& when) {
  const size_t byte = first_overrun(block.shared->bytes);
  if (byte == state.shared_end + kGap) return;
  const SharedVariable& variable =
      **std::min_element(state.variables.begin(), state.variables.end(),
                         [byte](const SharedVariable* left, const SharedVariable* right) {
                           return distance(*left, byte) < distance(*right, byte);
                         });
  fail(at({variable.file, variable.line}) + ": shared memory around " + variable.name +
       " of block " + std::to_string(block.index) + " was written, seen " + when);
}

}  // namespace emulator
