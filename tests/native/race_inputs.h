// Inputs of race_check.cpp: arrays that live until the program ends, and a call in a few orders.
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../../csrc/cuda/ops.h"

using namespace tapout;

namespace {

constexpr int64_t kBatch = 3;
constexpr int64_t kSlots = 2;
constexpr int64_t kVocab = 2500;  // three chunks
constexpr int64_t kArms = 2;
constexpr int64_t kGroups = 2;
constexpr int64_t kNodes = 40;  // of two words

uint64_t random_state = 1;

double uniform() {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(random_state >> 40) / (1 << 24);
}

// An array that lives until the program ends, of values by index.
template <class T>
T* array(int64_t size, const std::function<double(int64_t)>& value) {
  static std::vector<std::unique_ptr<T[]>> all;
  all.emplace_back(new T[static_cast<size_t>(size)]);
  for (int64_t i = 0; i < size; ++i) all.back()[static_cast<size_t>(i)] = static_cast<T>(value(i));
  return all.back().get();
}

template <class T>
T* constant(int64_t size, double value) {
  return array<T>(size, [value](int64_t) { return value; });
}

template <class T>
T* below(int64_t size, int64_t limit) {
  return array<T>(size, [limit](int64_t) { return uniform() * static_cast<double>(limit); });
}

Logits logits(int64_t rows) {  // [batch, rows, V] of steps, so that cutoffs have ties
  float* data = array<float>(kBatch * rows * kVocab,
                             [](int64_t) { return static_cast<int>(64 * uniform()) / 8.0; });
  return {data, DType::kF32, rows * kVocab, kVocab, kVocab};
}

Sampling sampling() {  // row 0 keeps everything, row 1 and 2 a part
  return {constant<float>(kBatch, 0.9), array<int32_t>(kBatch, [](int64_t b) { return 40 * b; }),
          array<float>(kBatch, [](int64_t b) { return b == 1 ? 0.7 : 1.0; }),
          array<float>(kBatch, [](int64_t b) { return b == 2 ? 0.01 : 0.0; })};
}

StateRows rows() { return {nullptr, kBatch}; }

Rules rules() {
  return {constant<int32_t>(kArms, static_cast<double>(StopKind::kAdaEdl)),
          constant<float>(kArms * kRuleParams, 0.1),
          below<int32_t>(kBatch, kArms),
          constant<float>(kBatch * kArms * kRuleParams, 0.5),
          kArms,
          1};
}

ProposalView proposal() {
  return {kBatch,
          kSlots,
          constant<int64_t>(kBatch * kSlots, -1),
          constant<int32_t>(kBatch, 0),
          constant<bool>(kBatch, 1),
          constant<int32_t>(1, kBatch),
          constant<float>(kBatch * kSlots * kStatsColumns, 0),
          constant<int32_t>(kBatch, 0)};
}

// Orders of blocks and threads, all blocks in flight: every block has shared memory of its own, so
// that what the check sees there are the threads of one block.
template <class Params>
void check(const Params& params, cuda::WorkspaceSize (*size)(const Params&),
           cudaError_t (*launch)(const Params&, cuda::Workspace, cuda::Queue)) {
  const cuda::WorkspaceSize wanted = size(params);
  const cuda::Workspace scratch = {constant<char>(wanted.bytes + 1, -1),
                                   constant<uint32_t>(wanted.tickets + 1, 0)};
  for (uint64_t seed = 0; seed < 3; ++seed) {
    emulator_configure(seed, 64);
    if (launch(params, scratch, {nullptr, 2}) == cudaSuccess) continue;
    fprintf(stderr, "%s\n", emulator_error());
    exit(1);
  }
}

}  // namespace
