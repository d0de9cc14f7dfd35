// compact_kv: keys and values of the accepted path to the slots behind the prefix, in place, all
// layers in one launch. A thread takes the same few bytes of every slot on the path, in order:
// entry j of a path is node j or a later one, so that nothing is written before it was read, and a
// later entry never reads what an earlier one has written: its loads need not wait for their
// stores.
#include "../core/tree.h"
#include "block.cuh"
#include "ops.h"

namespace tapout::cuda {

constexpr int64_t kMovesAtOnce = 4;       // loads of a thread that are under way together
constexpr int64_t kCompactBlocks = 2112;  // of all requests: sixteen for each multiprocessor

// Byte offset of a slot of request b in a layer's keys or values, -1 where it has no such slot.
__device__ inline int64_t slot_offset(const CompactKvParams& params, int64_t b, int64_t slot) {
  const int64_t page = slot / params.slots;
  if (slot < 0 || page >= (params.block_table ? params.table_pages : 1)) return -1;
  const int64_t row = params.block_table ? params.block_table[b * params.table_pages + page] : b;
  if (row < 0 || row >= params.cache_rows) return -1;
  return row * params.row_stride + slot % params.slots * params.slot_stride;
}

// From and to where an entry of the path moves.
struct Move {
  int64_t from;
  int64_t to;
};

// Leaves the moves of request b in shared memory; how many of its nodes are moved, or lie where
// they belong: up to the first entry that is none (core/tree.h, leading_nodes). By the whole block.
__device__ inline int32_t find_moves(const CompactKvParams& params, int64_t b, Move* moves) {
  SHARED(uint32_t, firsts, [kWarps]);
  const int32_t* path = params.path + b * params.nodes;
  const int64_t start = params.start[b];
  const int32_t most = max(min(params.num_accepted[b], static_cast<int32_t>(params.nodes)), 0);
  uint32_t first = most;
  for (int32_t j = threadIdx.x; j < most; j += kThreads) {
    const int32_t node = path[j];
    const bool rises = node > (j > 0 ? path[j - 1] : -1) && node < params.nodes;
    const Move move = {rises ? slot_offset(params, b, start + node) : -1,
                       slot_offset(params, b, start + j)};
    moves[j] = move;
    if (move.from < 0 || move.to < 0) first = min(first, static_cast<uint32_t>(j));
  }
  return static_cast<int32_t>(block_min(first, firsts));
}

// All moves of one vector of a slot, by one thread.
template <class Vector>
__device__ inline void move_vector(char* base, const Move* moves, int32_t count) {
  for (int32_t j = 0; j < count; j += kMovesAtOnce) {
    Vector held[kMovesAtOnce];
    const auto moved = [&](int i) { return j + i < count && moves[j + i].from != moves[j + i].to; };
#pragma unroll
    for (int i = 0; i < kMovesAtOnce; ++i) {
      if (moved(i)) held[i] = *reinterpret_cast<const Vector*>(base + moves[j + i].from);
    }
#pragma unroll
    for (int i = 0; i < kMovesAtOnce; ++i) {
      if (moved(i)) *reinterpret_cast<Vector*>(base + moves[j + i].to) = held[i];
    }
  }
}

// Blocks of a request share its vectors, `all` of them: those of each head of each layer's keys and
// values.
template <class Vector>
__global__ void __launch_bounds__(kThreads)
    compact_kv_kernel(CompactKvParams params, uint32_t* tickets, int32_t parts, uint32_t all) {
  SHARED(Move, moves, [kMostNodes]);
  const int64_t b = blockIdx.x / parts, part = blockIdx.x % parts;
  const int32_t count = find_moves(params, b, moves);
  if (params.length && threadIdx.x == 0) {  // which may be `start`: every block has read it
    const bool last = parts == 1 || ticket_arrive(tickets + b, parts) == parts - 1u;
    if (last) params.length[b] = static_cast<int32_t>(params.start[b] + count);
  }
  const uint32_t vectors = static_cast<uint32_t>(params.bytes / sizeof(Vector));
  const uint32_t heads = static_cast<uint32_t>(params.heads), step = parts * kThreads;
  for (uint32_t i = part * kThreads + threadIdx.x; i < all; i += step) {
    const uint32_t head = i / vectors, plane = head / heads;
    char* base = params.cache + plane / 2 * params.layer_stride + plane % 2 * params.kind_stride +
                 head % heads * params.head_stride + i % vectors * sizeof(Vector);
    move_vector<Vector>(base, moves, count);
  }
}

// Tickets count the blocks of a request that have read its start.
WorkspaceSize compact_kv_workspace(const CompactKvParams& params) { return {0, params.batch}; }

template <class Vector>
static cudaError_t launch_compact(const CompactKvParams& params, Workspace space, Queue queue) {
  constexpr int64_t kMostVectors = int64_t{1} << 31;  // indices of threads have room beyond them
  const int64_t each = params.layers * 2 * params.heads * params.bytes;
  const int64_t vectors = each / static_cast<int64_t>(sizeof(Vector));
  if (vectors > kMostVectors) return cudaErrorInvalidValue;
  const int64_t most = ceil_divide(kCompactBlocks, params.batch);
  const int64_t wanted = vectors > kThreads ? ceil_divide(vectors, kThreads) : 1;
  const int32_t parts = static_cast<int32_t>(wanted < most ? wanted : most);
  return launch(compact_kv_kernel<Vector>, static_cast<unsigned>(params.batch * parts), kThreads,
                {queue.stream}, params, space.tickets, parts, static_cast<uint32_t>(vectors));
}

cudaError_t compact_kv(const CompactKvParams& params, Workspace space, Queue queue) {
  if (params.batch == 0) return cudaSuccess;
  const uint64_t sizes = reinterpret_cast<uintptr_t>(params.cache) | params.bytes |
                         params.layer_stride | params.kind_stride | params.row_stride |
                         params.head_stride | params.slot_stride;
  if (sizes % sizeof(Vec16Bytes) == 0) return launch_compact<Vec16Bytes>(params, space, queue);
  if (sizes % sizeof(uint32_t) == 0) return launch_compact<uint32_t>(params, space, queue);
  return launch_compact<uint8_t>(params, space, queue);
}

}  // namespace tapout::cuda
