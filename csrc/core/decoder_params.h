// PODs of the engine's decoder on a CPU: a layer, a norm, a product.
#pragma once

#include "tree_params.h"

namespace tapout {

// Weights of products lie in panels of so many outputs: [ceil(outputs / 16), inputs, 16], the last
// one padded. In bf16 two inputs' lie side by side: [ceil(outputs / 16), ceil(inputs / 2), 16, 2].
constexpr int64_t kPanel = 16;

constexpr int64_t inputs_together(bool bf16) { return bf16 ? 2 : 1; }

struct PanelShape {
  int64_t panels;
  int64_t steps;
  int64_t numbers;  // of a step
};

constexpr PanelShape panel_shape(int64_t outputs, int64_t inputs, bool bf16) {
  const int64_t together = inputs_together(bf16);
  return {(outputs + kPanel - 1) / kPanel, (inputs + together - 1) / together, together * kPanel};
}

struct LinearParams {  // y = x W^T + bias
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
  DType dtype;         // of x, y and, without scales, the weights
  const void* x;       // [rows, inputs]
  const void* panels;  // as above; int8 with scales
  const float* scale;  // [outputs]: what an output's weights are multiples of
  const float* bias;   // [outputs]
  void* y;             // [rows, outputs]
};

struct RmsNormParams {  // x += delta, normed = x / rms(x) * weight
  int64_t rows;
  int64_t size;
  DType dtype;         // of all tensors
  void* x;             // [rows, size]
  const void* delta;   // [rows, size]
  const void* weight;  // [size]
  float eps;
  void* normed;  // [rows, size]
};

struct CopyRowsParams {  // out[place[i]] = source[take[i]]
  int64_t count;
  int64_t from;          // rows of source
  int64_t to;            // rows of out
  int64_t bytes;         // of a row
  const void* source;    // [from, ..]
  const int64_t* take;   // [count]; zeros are copied of a row that source has not; null: row i
  const int64_t* place;  // [count]; what has no row in out is not copied; null: row i
  void* out;             // [to, ..]
};

struct HeadInputsParams {  // normed = norm(embedding of ids) | norm(states)
  int64_t rows;
  int64_t size;
  int64_t vocab;
  DType dtype;             // of all but ids
  const int64_t* ids;      // [rows]; one outside the vocabulary counts as 0
  const void* embedding;   // [V, size]
  const void* states;      // [rows, size]
  const void* token_norm;  // [size]
  const void* state_norm;  // [size]
  float eps;
  void* normed;  // [rows, 2 size]
};

// One layer: x += attention(norm(x)), x += feed(norm(x)). Tokens of a request lie side by side.
struct DecoderLayerParams {
  int64_t batch;
  int64_t tokens;  // T
  int64_t width;   // most tokens of a request
  int64_t hidden;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t feed;
  int64_t slots;
  int64_t among;  // of a tree
  DType dtype;    // of all but the bias, the scale, and panels beside a scale
  float eps;
  void* x;                   // [T, hidden]
  const void* cos;           // [T, head_dim]
  const void* sin;           // [T, head_dim], its first half negative
  const int64_t* slot;       // [T], of the cache; a token that has none of it is not stored
  const int32_t* start;      // [B+1], the first token of each request
  const int32_t* past;       // [B]
  const int32_t* tree_mask;  // [B, width, ceil(among / 32)]
  HeadRows keys;             // [B, kv_heads, slots, head_dim]
  HeadRows values;           // as keys
  const void* before;        // [hidden]
  const void* qkv;           // panels of heads + 2 kv_heads heads
  const float* qkv_bias;
  const void* q_norm;   // [head_dim]
  const void* k_norm;   // [head_dim]
  const void* out;      // panels
  const void* between;  // [hidden]
  const void* gate_up;  // panels
  const void* down;     // panels
  const float* scale;   // of each output of qkv, out, gate_up and down, whose panels are int8 then
};

}  // namespace tapout
