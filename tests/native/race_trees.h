// race_check.cpp, operators of trees.
#pragma once

#include "race_inputs.h"

namespace {

int32_t* parents() {
  return array<int32_t>(kBatch * kNodes,
                        [](int64_t i) { return floor(uniform() * (i % kNodes + 1)) - 1; });
}

int32_t* ancestors() { return constant<int32_t>(kBatch * kNodes * (kNodes / 32 + 1), 5); }

void tree_layout(int) {
  TreeLayoutParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes;
  params.parents = parents();
  params.size = constant<int32_t>(kBatch, 0);
  params.valid = constant<bool>(kBatch, 0);
  params.depth = constant<int32_t>(kBatch * kNodes, 0);
  params.position_ids = constant<int64_t>(kBatch * (kNodes + 1), 0);
  params.first_child = constant<int32_t>(kBatch * (kNodes + 1), 0);
  params.next_sibling = constant<int32_t>(kBatch * kNodes, 0);
  params.ancestors = ancestors();
  check(params, cuda::tree_layout_workspace, cuda::tree_layout);
}

void tree_mask(int) {
  TreeMaskParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes;
  params.ancestors = ancestors();
  params.mask = {constant<uint8_t>(kBatch * kNodes * kNodes, 0), MaskType::kBool, kNodes,
                 kNodes * kNodes, kNodes};
  check(params, cuda::tree_mask_workspace, cuda::tree_mask);
}

void tree_mask_flat(int) {  // rows that share bytes, and lie where the call before wrote
  TreeMaskFlatParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes / 2;  // more blocks would not be in flight at once
  params.rows = kNodes / 2;
  params.ancestors = ancestors();
  params.past = array<int32_t>(kBatch, [](int64_t b) { return 3 * b; });
  params.packed = true;
  params.size = kBatch * kNodes * (kNodes + 20) / 8;
  params.mask = constant<uint8_t>(params.size, 255);
  params.written = array<int32_t>(kBatch, [](int64_t b) { return 7 - 2 * b; });
  params.start = constant<int32_t>(kBatch + 1, 0);
  check(params, cuda::tree_mask_flat_workspace, cuda::tree_mask_flat);
}

void tree_rerank(int) {
  TreeRerankParams params = {};
  params.batch = kBatch;
  params.candidates = kNodes;
  params.nodes = kNodes / 2;
  params.tokens = below<int64_t>(kBatch * kNodes, 99);
  params.parents = parents();
  params.score = array<float>(kBatch * kNodes, [](int64_t i) { return -(i % kNodes / 3); });
  params.out_tokens = constant<int64_t>(kBatch * kNodes, 0);
  params.out_parents = constant<int32_t>(kBatch * kNodes, 0);
  params.node = constant<int32_t>(kBatch * kNodes, 0);
  check(params, cuda::tree_rerank_workspace, cuda::tree_rerank);
}

// Two rows of three children each, the root's first.
void tree_expand(int drawn) {
  constexpr int64_t kWide = 2, kEach = 3, kAll = 1 + kWide * kEach;
  TreeExpandParams params = {};
  params.batch = kBatch;
  params.nodes = kAll;
  params.beam_rows = kWide;
  params.children = kEach;
  params.rows = rows();
  params.logits = logits(kWide);
  params.sampling = sampling();
  params.seed = below<int64_t>(kBatch, 99);
  params.round = constant<int64_t>(kBatch, 0);
  params.beam = array<int32_t>(kBatch * kWide, [](int64_t i) { return i % kWide - 1; });
  params.child_start = array<int32_t>(kWide + 1, [](int64_t i) { return 1 + i * kEach; });
  params.threshold = constant<float>(kBatch, -1);
  params.drawn = drawn;
  params.active = constant<bool>(kBatch, 1);
  params.depth = constant<int32_t>(kBatch, 0);
  params.tokens = constant<int64_t>(kBatch * kAll, 1);
  params.parents = constant<int32_t>(kBatch * kAll, 0);
  params.score = constant<float>(kBatch * kAll, 0);
  params.kept_logits = constant<float>(kBatch * (kAll + 1) * kVocab, 0);
  params.stats = constant<float>(kBatch * (kAll + 1) * kStatsColumns, 0);
  params.next_rows = 2;
  params.next_beam = constant<int32_t>(kBatch * 2, 0);
  params.next_row = constant<int32_t>(kBatch * 2, 0);
  params.next_token = constant<int64_t>(kBatch * 2, 0);
  check(params, cuda::tree_expand_workspace, cuda::tree_expand);
}

void compact_kv(int) {  // all but the first node of every path move by one slot
  constexpr int64_t kWidth = 48, kSlots = kNodes + 3;
  CompactKvParams params = {};
  params.batch = kBatch;
  params.nodes = kNodes;
  params.path = array<int32_t>(kBatch * kNodes, [](int64_t i) {
    const int64_t j = i % kNodes;
    return j == 0 ? 0 : j + 1;
  });
  params.num_accepted = constant<int32_t>(kBatch, kNodes);
  params.length = array<int32_t>(kBatch, [](int64_t b) { return b; });
  params.start = params.length;
  params.layers = 3;
  params.cache_rows = kBatch;
  params.heads = 2;
  params.slots = kSlots;
  params.bytes = kWidth;
  params.slot_stride = kWidth;
  params.head_stride = kSlots * kWidth;
  params.row_stride = 2 * params.head_stride;
  params.kind_stride = kBatch * params.row_stride;
  params.layer_stride = 2 * params.kind_stride;
  params.cache = constant<char>(3 * params.layer_stride, 1);
  check(params, cuda::compact_kv_workspace, cuda::compact_kv);
}

// A root with three children, two of which have one.
void tree_verify(int rule) {
  constexpr int64_t kFew = 5;
  const auto links = [](std::vector<int32_t> row) {
    return array<int32_t>(kBatch * static_cast<int64_t>(row.size()),
                          [row](int64_t i) { return row[static_cast<size_t>(i) % row.size()]; });
  };
  TreeVerifyParams params = {};
  params.batch = kBatch;
  params.nodes = kFew;
  params.rows = rows();
  params.target = logits(kFew + 1);
  params.sampling = sampling();
  params.seed = below<int64_t>(kBatch, 99);
  params.draft_tokens = below<int64_t>(kBatch * kFew, kVocab);
  params.first_child = links({0, 3, 4, -1, -1, -1});
  params.next_sibling = links({1, 2, -1, -1, -1});
  params.valid = constant<bool>(kBatch, 1);
  params.live = constant<bool>(kBatch, 1);
  params.round = constant<int64_t>(kBatch, 0);
  params.draft = logits(kFew + 1);
  params.draft_rows = kBatch;
  params.stats = array<float>(kBatch * (kFew + 1) * kStatsColumns, [](int64_t i) {
    const int64_t column = i % kStatsColumns;
    return column == kCutoff ? -INFINITY : column == kTemperature ? 1.0 : -0.5;
  });
  params.rule = static_cast<Rule>(rule);
  params.position = constant<int64_t>(kBatch, 0);
  params.tokens = constant<int64_t>(kBatch * (kFew + 1), 0);
  params.path = constant<int32_t>(kBatch * kFew, 0);
  params.num_accepted = constant<int32_t>(kBatch, 0);
  params.num_emitted = constant<int32_t>(kBatch, 0);
  params.last_token = constant<int64_t>(kBatch, 0);
  params.status = constant<int32_t>(kBatch, 0);
  check(params, cuda::tree_verify_workspace, cuda::tree_verify);
  params.draft.data = nullptr;
  check(params, cuda::tree_verify_workspace, cuda::tree_verify);
}

}  // namespace
