// One POD Params per op of trees; the names are those of params.h.
//
//   N      nodes of a tree; row 0 is the root, the last token before the draft, row i + 1 node i
//   Q      rows of a mask: N, or N + 1 where the root is fed with the nodes
//   words  ceil(N / 32): bit j & 31 of word j >> 5 says something of node j
#pragma once

#include "params.h"

namespace tapout {

constexpr int64_t kMostNodes = 1024;
constexpr int64_t kMostHeadDim = 256;

struct TreeLayoutParams {
  int64_t batch;
  int64_t nodes;
  const int32_t* parents;   // [B, N]
  const int64_t* position;  // [B]
  int32_t* size;            // [B]
  bool* valid;              // [B]
  int32_t* depth;           // [B, N]
  int64_t* position_ids;    // [B, N+1]
  int32_t* first_child;     // [B, N+1]
  int32_t* next_sibling;    // [B, N]
  int32_t* ancestors;       // [B, N, words]
};

enum class MaskType : int32_t { kBits = 0, kBool = 1, kF32 = 2, kBf16 = 3, kF16 = 4 };

struct MaskRows {  // [B, Q, Q], or [B, Q, ceil(Q / 32)] of bits; the columns are contiguous
  void* data;
  MaskType type;
  int64_t rows;  // Q
  int64_t batch_stride;
  int64_t row_stride;
};

struct TreeMaskParams {
  int64_t batch;
  int64_t nodes;
  const int32_t* ancestors;  // [B, N, words]
  MaskRows mask;
};

struct TreeMaskFlatParams {
  int64_t batch;
  int64_t nodes;
  int64_t rows;              // Q
  const int32_t* ancestors;  // [B, N, words]
  const int32_t* past;       // [B]
  bool packed;               // eight entries to a byte, else one
  uint8_t* mask;             // [size]
  int64_t size;
  int32_t* written;  // [B]
  int32_t* start;    // [B+1]
};

struct TreeVerifyParams {
  int64_t batch;
  int64_t nodes;
  StateRows rows;
  Logits target;  // [B, N+1, V]
  Sampling sampling;
  TokenMask mask;               // [B, N+1, ceil(V / 32)]
  const int64_t* seed;          // [R]
  const int64_t* draft_tokens;  // [B, N]
  const int32_t* first_child;   // [B, N+1]
  const int32_t* next_sibling;  // [B, N]
  const bool* valid;            // [B]
  const bool* live;             // [B]
  const int64_t* round;         // [B]
  Logits draft;                 // [draft_rows, N+1, D]; data null: one-hot drafts
  const int32_t* logits_row;    // [B], rows of draft
  int64_t draft_rows;
  const int32_t* t2d;  // [target_ids]
  int64_t target_ids;
  const float* stats;  // [B, N+1, 8]
  Rule rule;
  int64_t* position;      // [R]
  int64_t* tokens;        // [B, N+1]
  int32_t* path;          // [B, N]
  int32_t* num_accepted;  // [B]
  int32_t* num_emitted;   // [B]
  int64_t* last_token;    // [B]
  int32_t* status;        // [B]
};

// [.., heads, tokens or slots, head_dim]: the last dimension is contiguous.
struct HeadRows {
  const void* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

struct TreeAttentionParams {
  int64_t batch;
  int64_t heads;
  int64_t kv_heads;
  int64_t tokens;    // N, the new ones
  int64_t head_dim;  // D
  int64_t slots;     // of a request, or of a page
  int64_t pages;
  DType dtype;
  HeadRows query;              // [B, heads, N, D]
  HeadRows keys;               // [B or pages, kv_heads, slots, D]
  HeadRows values;             // as keys
  const int32_t* past;         // [B]
  const int32_t* block_table;  // [B, table_pages]
  int64_t table_pages;
  const int32_t* tree_mask;  // [B, N, ceil(among / 32)]
  int64_t among;             // slots behind `past` that may be seen: N, or those of the mask
  float scale;
  HeadRows mixed;  // as query; written
};

// Rows of a draft and the nodes that hang on them: one level of a tree.
struct TreeExpandParams {
  int64_t batch;
  int64_t nodes;      // of the tree so far and to come
  int64_t beam_rows;  // W
  int64_t children;   // of a row, at most
  StateRows rows;
  Logits logits;  // [B, W, D]
  Sampling sampling;
  TokenMask mask;              // [B, W, words]
  const int32_t* d2t;          // [D]
  const int64_t* seed;         // [R]
  const int64_t* round;        // [B]
  const int32_t* beam;         // [B, W] the node of each row, -1 the root, below: no row
  const int32_t* child_start;  // [W+1] nodes of row w: from entry w to entry w + 1
  const int32_t* next_node;    // [next_rows] the next level's rows; null: the best children
  const float* threshold;      // [B]
  bool drawn;                  // children without replacement; else the most probable ids
  bool* active;                // [B]
  int32_t* depth;              // [B]
  int64_t* tokens;             // [B, N]
  int32_t* parents;            // [B, N]
  float* score;                // [B, N]
  void* kept_logits;           // [B, N+1, D], the dtype of logits
  float* stats;                // [B, N+1, 8]
  int64_t next_rows;
  int32_t* next_beam;   // [B, next_rows]
  int32_t* next_row;    // [B, next_rows]
  int64_t* next_token;  // [B, next_rows]
};

struct TreeRerankParams {
  int64_t batch;
  int64_t candidates;  // M
  int64_t nodes;
  const int64_t* tokens;   // [B, M]
  const int32_t* parents;  // [B, M]
  const float* score;      // [B, M]
  int64_t* out_tokens;     // [B, N]
  int32_t* out_parents;    // [B, N]
  int32_t* node;           // [B, N] the candidate each node was
};

// Keys and values of all layers, in bytes. Without pages row b of `cache` holds request b.
struct CompactKvParams {
  int64_t batch;
  int64_t nodes;
  const int32_t* path;          // [B, N]
  const int32_t* num_accepted;  // [B]
  const int32_t* start;         // [B] the slot of node 0
  const int32_t* block_table;   // [B, table_pages] rows of cache
  int64_t table_pages;
  char* cache;  // [layers, 2, cache_rows, heads, slots] of `bytes` each
  int64_t layers;
  int64_t cache_rows;
  int64_t heads;
  int64_t slots;  // of a row
  int64_t bytes;
  int64_t layer_stride;
  int64_t kind_stride;
  int64_t row_stride;
  int64_t head_stride;
  int64_t slot_stride;
  int32_t* length;  // [B]
};

}  // namespace tapout
