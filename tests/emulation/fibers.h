// Fibers: stacks that one host thread switches between. On x86-64 a switch is a few instructions,
// elsewhere it is ucontext's. The sanitizers of the instrumented kernels are told of every switch;
// this runtime itself is compiled without them, with -DEMULATOR_ASAN or -DEMULATOR_TSAN instead.
#pragma once

#include <stddef.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

struct Stack {
  char* bytes;  // above a page that nothing may touch
  size_t size;
};

// Where one fiber, or the host thread that started them, goes on.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t machine;
#endif
  Stack stack = {nullptr, 0};
  void* sanitizer = nullptr;
};

Stack make_stack();

// The next switch to `context` calls `entry`, which must not return. Neighbours of different
// `number` keep their first frames in different sets of the cache.
void prepare(Context& context, Stack stack, unsigned number, void (*entry)());
// After the last switch from or to a context that prepare() made.
void dispose(Context& context);

// Returns when something switches back to `from`. With `ends` nothing will.
void switch_context(Context& from, Context& to, bool ends);
// What a fiber does first.
void arrived_first(Context& host);

// For the race check: what was done before ordered(at, true) happens before what is done after
// ordered(at, false).
void ordered(void* at, bool before);

}  // namespace emulator
