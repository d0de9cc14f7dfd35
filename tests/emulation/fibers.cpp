#include "fibers.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

#if defined(EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {

#if defined(__x86_64__)

// What a called function must preserve goes to the stack that is left and comes from the other.
asm(R"(
  .text
  .p2align 4
  .hidden emulator_switch
  .globl emulator_switch
  .type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulator_switch, .-emulator_switch
)");
extern "C" void emulator_switch(void** from, void* to) __attribute__((visibility("hidden")));

static void start_machine(Context& context, char* top, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(top) - 2;  // the address `ret` takes is 16 bytes aligned
  frame[0] = reinterpret_cast<void*>(entry);
  frame[1] = nullptr;
  for (int saved = 1; saved <= 6; ++saved) frame[-saved] = nullptr;
  context.stack_pointer = frame - 6;
}

static void switch_machine(Context& from, Context& to) {
  emulator_switch(&from.stack_pointer, to.stack_pointer);
}

#else

static void start_machine(Context& context, char* top, void (*entry)()) {
  getcontext(&context.machine);
  context.machine.uc_stack.ss_sp = context.stack.bytes;
  context.machine.uc_stack.ss_size = static_cast<size_t>(top - context.stack.bytes);
  context.machine.uc_link = nullptr;
  makecontext(&context.machine, entry, 0);
}

static void switch_machine(Context& from, Context& to) { swapcontext(&from.machine, &to.machine); }

#endif

Stack make_stack() {
  constexpr size_t kStackBytes = 128 << 10;
  const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* bytes = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (bytes == MAP_FAILED || mprotect(bytes, guard, PROT_NONE) != 0) throw std::bad_alloc();
  return {static_cast<char*>(bytes) + guard, kStackBytes};
}

void prepare(Context& context, Stack stack, unsigned number, void (*entry)()) {
  context.stack = stack;
  start_machine(context, stack.bytes + stack.size - number % 8 * 512, entry);
#if defined(EMULATOR_ASAN)
  __asan_unpoison_memory_region(stack.bytes, stack.size);  // of a fiber that was given up
#elif defined(EMULATOR_TSAN)
  context.sanitizer = __tsan_create_fiber(0);
#endif
}

void dispose([[maybe_unused]] Context& context) {
#if defined(EMULATOR_TSAN)
  __tsan_destroy_fiber(context.sanitizer);
#endif
}

void switch_context(Context& from, Context& to, [[maybe_unused]] bool ends) {
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer, to.stack.bytes, to.stack.size);
#elif defined(EMULATOR_TSAN)
  if (from.sanitizer == nullptr) from.sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  switch_machine(from, to);
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

void arrived_first([[maybe_unused]] Context& host) {
#if defined(EMULATOR_ASAN)
  const void* bytes = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bytes, &size);
  if (host.stack.bytes == nullptr)
    host.stack = {const_cast<char*>(static_cast<const char*>(bytes)), size};
#endif
}

void ordered([[maybe_unused]] void* at, [[maybe_unused]] bool before) {
#if defined(EMULATOR_TSAN)
  if (before) {
    __tsan_release(at);
  } else {
    __tsan_acquire(at);
  }
#endif
}

}  // namespace emulator
