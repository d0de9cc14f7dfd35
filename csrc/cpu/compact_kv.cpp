// compact_kv: keys and values of the accepted path to the slots behind the prefix, in place. Entry
// j of a path is node j or a later one: moved in order, nothing is written before it was read.
#include <string.h>

#include "../core/tree.h"
#include "ops.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// Byte offset of a slot of request b in a layer's keys or values, -1 where it has no such slot.
static int64_t slot_offset(const CompactKvParams& params, int64_t b, int64_t slot) {
  const int64_t page = slot / params.slots;
  if (slot < 0 || page >= (params.block_table ? params.table_pages : 1)) return -1;
  const int64_t row = params.block_table ? params.block_table[b * params.table_pages + page] : b;
  if (row < 0 || row >= params.cache_rows) return -1;
  return row * params.row_stride + slot % params.slots * params.slot_stride;
}

// Nodes of request b that are moved, or lie where they belong.
static int64_t moved_nodes(const CompactKvParams& params, int64_t b) {
  const int32_t* path = params.path + b * params.nodes;
  const int64_t start = params.start[b];
  const int64_t count = leading_nodes(path, params.num_accepted[b], params.nodes);
  int64_t found = 0;
  while (found < count && slot_offset(params, b, start + found) >= 0 &&
         slot_offset(params, b, start + path[found]) >= 0) {
    ++found;
  }
  return found;
}

// All heads of a layer's keys or values.
static void move_node(const CompactKvParams& params, char* plane, int64_t from, int64_t to) {
  for (int64_t head = 0; head < params.heads; ++head) {
    char* base = plane + head * params.head_stride;
    memcpy(base + to, base + from, params.bytes);
  }
}

static void move_path(const CompactKvParams& params, int64_t b, char* plane) {
  const int32_t* path = params.path + b * params.nodes;
  const int64_t start = params.start[b], count = moved_nodes(params, b);
  for (int64_t j = 0; j < count; ++j) {
    if (path[j] == j) continue;
    move_node(params, plane, slot_offset(params, b, start + path[j]),
              slot_offset(params, b, start + j));
  }
}

void compact_kv(const CompactKvParams& params, const Team& team) {
  for_each(team, params.layers * 2, [&](int64_t, int64_t i) {
    char* plane = params.cache + i / 2 * params.layer_stride + i % 2 * params.kind_stride;
    for (int64_t b = 0; b < params.batch; ++b) move_path(params, b, plane);
  });
  if (!params.length) return;
  for (int64_t b = 0; b < params.batch; ++b) {
    params.length[b] = static_cast<int32_t>(params.start[b] + moved_nodes(params, b));
  }
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
