// Counts what is allocated, preloaded before everything else (glibc): tests/test_memory.py.
#include <errno.h>
#include <stddef.h>

#include <atomic>

extern "C" {

void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

static std::atomic<long long> allocated{0};

// Bytes asked for so far, by any thread; what is freed again counts too.
long long allocated_bytes() { return allocated; }

void* malloc(size_t bytes) {
  allocated += bytes;
  return __libc_malloc(bytes);
}

void* calloc(size_t count, size_t bytes) {
  allocated += count * bytes;
  return __libc_calloc(count, bytes);
}

void* realloc(void* old, size_t bytes) {
  allocated += bytes;
  return __libc_realloc(old, bytes);
}

void* memalign(size_t alignment, size_t bytes) {
  allocated += bytes;
  return __libc_memalign(alignment, bytes);
}

void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void** out, size_t alignment, size_t bytes) {
  *out = memalign(alignment, bytes);
  return *out ? 0 : ENOMEM;
}
}
