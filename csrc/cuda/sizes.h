// How rows are cut up, and how many blocks share one. Chunks fix the order of sums; nothing else
// here changes a result.
#pragma once

#include "../core/macros.h"

// The emulator takes fewer: every thread of a block costs it time at every barrier.
#ifndef TAPOUT_BLOCK_THREADS
#define TAPOUT_BLOCK_THREADS 256
#endif

namespace tapout::cuda {

constexpr int32_t kChunk = 1024;  // ids read by one warp at once: unit of statistics and of draws
constexpr int32_t kGroup = 256;   // ids that share a maximum
constexpr int32_t kChunkGroups = kChunk / kGroup;
constexpr int kLaneIds = kChunk / 32;  // of one lane

// Not measured yet.
constexpr int kThreads = TAPOUT_BLOCK_THREADS;
constexpr int kBlocksPerMultiprocessor = 16;  // rows are split until there are about so many
constexpr int32_t kNearby = 2048;             // candidates of a cutoff kept in shared memory

constexpr int kWarps = kThreads / 32;

// Blocks of a kernel that registers must leave room for on a multiprocessor. The more, the more
// bytes are in flight: a lane holds twice as many of f32, and older chips need fewer.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kMostBlocksAtOnce = 2;
#else
constexpr int kMostBlocksAtOnce = 3;
#endif
template <class T, bool kStatistics, bool kGumbel>
constexpr int kBlocksAtOnce = sizeof(T) == 4 && kGumbel                  ? 1
                              : sizeof(T) == 4 || kStatistics || kGumbel ? 2
                                                                         : kMostBlocksAtOnce;

TAPOUT_HD int32_t ceil_divide(int64_t value, int64_t by) {
  return static_cast<int32_t>((value + by - 1) / by);
}

TAPOUT_HD int32_t num_chunks(int64_t vocab) { return ceil_divide(vocab, kChunk); }
TAPOUT_HD int32_t num_groups(int64_t vocab) { return ceil_divide(vocab, kGroup); }

// The blocks of one row and the chunks of each.
struct Split {
  int32_t blocks;
  int32_t chunks;
};

// Few rows go to a block on each multiprocessor, many to blocks of whole rounds of their warps.
inline Split split_rows(int64_t rows, int64_t vocab, int multiprocessors) {
  const int32_t chunks = num_chunks(vocab), rounds = ceil_divide(chunks, kWarps);
  int32_t each = ceil_divide(rows * chunks, multiprocessors);
  if (each > kWarps) {
    const int64_t most = ceil_divide(int64_t{kBlocksPerMultiprocessor} * multiprocessors, rows);
    each = kWarps * ceil_divide(rounds, most < rounds ? most : rounds);
  }
  each = each < chunks ? each : chunks;
  return {ceil_divide(chunks, each), each};
}

}  // namespace tapout::cuda
